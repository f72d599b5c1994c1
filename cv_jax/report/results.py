"""Current state of the trials of a sweep, and their metrics."""

import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from cv_jax.errors import RunError, one_line
from cv_jax.evaluation.metrics import implausible
from cv_jax.report import checks
from cv_jax.run import json_files, lock, workdir
from cv_jax.sweep import folder as folders
from cv_jax.sweep.points import Sweep, distinct

DONE = "done"
NOT_COUNTED = "not counted: "  # start of the state of a trial that cannot be believed


class Result(NamedTuple):
    """One trial.

    Attributes:
      name: of its point.
      values: swept keys without the seed: key → value; `None` if the point does not set the key.
      seed: of the run; `None` if the run has not begun and the point does not set the seed.
      state: DONE, or a description of the progress.
      metrics: name → number; empty if the trial is not done.
      config: flat values of config.json; empty if the run has not begun.
      starts: entries of run.json; empty if the run has not begun.
    """

    name: str
    values: dict[str, Any]
    seed: int | None
    state: str
    metrics: dict[str, float]
    config: dict[str, Any]
    starts: list[dict[str, Any]]

    @property
    def start(self) -> dict[str, Any]:
        """The last start; empty if the run has not begun."""
        return self.starts[-1] if self.starts else {}


def read(folder: Path) -> tuple[Sweep, list[Result]]:
    """Read all trials of a sweep, in the order of its points; a damaged one has no metrics.

    Raises:
      InputError: the folder holds no sweep, or the sweep's file is damaged.
      RunError: `trials.jsonl` is damaged.
    """
    sweep = folders.read(folder)
    files = [folder / "trials.jsonl", *sorted((folder / "slurm").glob("*.jsonl"))]
    ended = {line["trial"]: line for file in files for line in json_files.read_lines(file)}
    keys = [key for key in distinct(sweep.points) if key != "seed"]
    results = []
    for point in sweep.points:
        path, own = folder / point.name, {**point.arguments, **point.overrides}
        config, starts, metrics = {}, [], {}
        try:
            config = _recorded(json_files.read_record, path / "config.json", {})
            starts = _recorded(workdir.read_starts, path, [])
            summary = _recorded(json_files.read_record, path / "summary.json", None)
            if summary:
                lines = json_files.read_lines(path / "metrics.jsonl")
                files = config, starts, summary, lines
                reason = checks.objection(sweep, point, path, *files)
                state = DONE if reason is None else NOT_COUNTED + reason
                metrics = {} if reason else _metrics(path, config, summary, lines)
            else:
                state = _state(path, ended.get(point.name))
        except (RunError, OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            state, metrics = f"{NOT_COUNTED}a file is damaged: {one_line(error)}", {}
        results.append(
            Result(
                name=point.name,
                values={key: own.get(key) for key in keys},
                seed=config.get("seed", own.get("seed")),
                state=state,
                metrics=metrics,
                config=config,
                starts=starts,
            )
        )
    return sweep, results


def _recorded(read: Callable, path: Path, absent: Any) -> Any:
    try:
        return read(path)
    except FileNotFoundError:
        return absent


def _metrics(path: Path, config: dict, summary: dict, lines: list[dict]) -> dict[str, float]:
    """Return the last loss and accuracies of every split, model sizes, and times."""
    metrics = {}
    for line in lines:
        for name in ("accuracy", "beam_accuracy", "loss"):
            if name in line and line["step"] == summary["step"]:
                metrics[f"{line['split']}_{name}"] = line[name]
    for name in ("parameters", "multiply_adds", "best_test_accuracy"):
        if name in summary:
            metrics[name] = summary[name]
    times = json_files.read_lines(path / "timing.jsonl")
    for line in times:
        reason = implausible(line)
        if reason:
            raise RunError(f"{path / 'timing.jsonl'}: {reason}")
    metrics["seconds"] = _seconds(times)
    metrics["images_per_second"] = _speed(times, config["batch_size"])
    return metrics


def _seconds(times: list[dict]) -> float:
    """Sum the time of all processes of a run; each process restarts the clock."""
    total, last = 0.0, 0.0
    for line in times:
        if line["seconds"] < last:
            total += last
        last = line["seconds"]
    return total + last


def _speed(times: list[dict], batch_size: int) -> float:
    """Median of the images per second between two lines.

    Most pairs of lines have no evaluation or save between them. The first line of a process, which
    includes compilation, has no line before it.
    """
    speeds = [
        (b["step"] - a["step"]) * batch_size / (b["seconds"] - a["seconds"])
        for a, b in zip(times, times[1:], strict=False)
        if b["step"] > a["step"] and b["seconds"] > a["seconds"]
    ]
    return statistics.median(speeds) if speeds else float("nan")


def _state(path: Path, ended: dict | None) -> str:
    """Describe the state of a trial that is not done."""
    step = folders.progress(path)
    if lock.in_use(path):
        return f"running, step {step}"
    if folders.was_pruned(path):
        return f"given up at step {step}"
    if ended is None:
        return f"not finished, step {step}" if path.exists() else "not started"
    code = ended["code"]
    if code < 0:
        return f"killed by signal {-code} at step {step}"
    return {
        75: f"stopped at step {step}",
        3: f"the loss became infinite or not a number, step {step}",
    }.get(code, f"failed with exit code {code} at step {step}")
