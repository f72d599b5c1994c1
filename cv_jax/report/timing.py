"""Time of a run from the lines of timing.jsonl."""

import statistics
from typing import Any, NamedTuple

import numpy as np

from cv_jax.report.run_files import RunFiles


class Part(NamedTuple):
    """A part of the time of a run.

    Attributes:
      name: what the time was for.
      seconds: its length.
    """

    name: str
    seconds: float


def processes(times: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Divide timing lines by process: each process starts the clock again."""
    found: list[list[dict[str, Any]]] = []
    for line in times:
        if not found or line["seconds"] < found[-1][-1]["seconds"]:
            found.append([])
        found[-1].append(line)
    return found


def clock_of_steps(times: list[dict[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
    """Return steps, ascending, and the seconds since the first start at which they were made.

    Of a step that was made again after a restart, the last time counts.
    """
    known: list[tuple[int, float]] = []
    before = 0.0
    for lines in processes(times):
        begun = lines[0].get("first_step_seconds", lines[0]["seconds"]) - lines[0]["seconds"]
        for line in lines:
            while known and known[-1][0] >= line["step"]:
                known.pop()
            known.append((line["step"], before + begun + line["seconds"]))
        before += begun + lines[-1]["seconds"]
    steps, seconds = zip(*known, strict=True) if known else ((), ())
    return np.array(steps, np.float64), np.array(seconds, np.float64)


def speeds(times: list[dict[str, Any]], batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return steps, and the images per second between the line of each step and the line before."""
    found = [
        (b["step"], (b["step"] - a["step"]) * batch_size / (b["seconds"] - a["seconds"]))
        for lines in processes(times)
        for a, b in zip(lines, lines[1:], strict=False)
        if b["step"] > a["step"] and b["seconds"] > a["seconds"]
    ]
    steps, values = zip(*found, strict=True) if found else ((), ())
    return np.array(steps, np.float64), np.array(values, np.float64)


def parts(run: RunFiles) -> list[Part]:
    """Return where the time of a run went; empty without timing lines.

    Between two lines without an evaluation there are steps only; the median time of a step there
    counts for the steps between the other lines. If an evaluation lies between all lines, steps and
    evaluations are one part.
    """
    if not run.times:
        return []
    evaluated = {line["step"] for line in run.lines if line["split"] not in ("train", "norms")}
    start = compiling = elapsed = pure = 0.0
    mixed_steps, per_step = 0, []
    for lines in processes(run.times):
        first = lines[0]
        compiled = first.get("compile_seconds", 0.0)
        compiling += compiled
        start += max(first.get("first_step_seconds", first["seconds"]) - compiled, 0.0)
        elapsed += lines[-1]["seconds"] - first["seconds"]
        for a, b in zip(lines, lines[1:], strict=False):
            steps, seconds = b["step"] - a["step"], b["seconds"] - a["seconds"]
            # A line is written before the evaluation of its step.
            if evaluated.isdisjoint(range(a["step"], b["step"])):
                pure += seconds
                per_step += [seconds / steps] if steps > 0 else []
            else:
                mixed_steps += steps
    found = [
        Part("start: imports, data, initialisation", start),
        Part("compiling, or loading compiled programs", compiling),
    ]
    if not per_step:
        return [*found, Part("training steps, evaluations, checkpoints", elapsed)]
    steps = min(pure + mixed_steps * statistics.median(per_step), elapsed)
    return [
        *found,
        Part("training steps", steps),
        Part("evaluations, checkpoints, waiting", elapsed - steps),
    ]
