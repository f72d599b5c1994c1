"""Whether the files of a finished trial can be believed: ranges, agreement, and whose they are.

Metric lines have no checksum of their own. They are compared with the summary and with the copy in
the newest checkpoint, which have one.
"""

import contextlib
from pathlib import Path
from typing import Any

from cv_jax import config as configs
from cv_jax.config.fields import FIELDS
from cv_jax.config.tree import type_of
from cv_jax.config.values import check, tuples
from cv_jax.errors import InputError, RunError
from cv_jax.evaluation.metrics import implausible
from cv_jax.run import identity, json_files
from cv_jax.sweep.points import Point, Sweep, text_of

PLACES = (*identity.PLACES.values(), "init_from")  # what is in a place may move


def objection(
    sweep: Sweep,
    point: Point,
    path: Path,
    config: dict[str, Any],
    starts: list[dict[str, Any]],
    summary: dict[str, Any],
    lines: list[dict[str, Any]],
) -> str | None:
    """Return why a finished trial is not counted; `None` if nothing speaks against it.

    Args:
      sweep: the sweep.
      point: its point.
      path: its run directory.
      config: content of config.json.
      starts: content of run.json.
      summary: content of summary.json.
      lines: content of metrics.jsonl.
    """
    return (
        _other_point(sweep, point, config, starts)
        or _other_run(config, starts, summary)
        or _implausible(lines, summary)
        or _contradiction(path, summary, lines)
    )


def _other_point(sweep, point, config, starts) -> str | None:
    """Compare the run's values, and the folder in its command, with the point."""
    wanted = dict(sweep.texts(point))
    for key, field in (("model", "model.name"), ("dataset", "data.name")):
        if key in point.arguments:
            wanted[field] = text_of(point.arguments[key])
    for name, text in wanted.items():
        running = name in FIELDS and FIELDS[name].kind == "run"
        known = name in config and name not in PLACES and not running
        if known and not _same(name, text, config):
            stored = text_of(tuples(config[name]))
            return f"it is the run of another point: {name} is {stored}, not {text}"
    for start in starts:
        words = start.get("command") or []
        for word, value in zip(words, words[1:], strict=False):
            name = Path(value).name if word == "--workdir" else point.name
            if name != point.name and any(other.name == name for other in sweep.points):
                return f"it is the run of another point: {name}"
    return None


def _same(name: str, text: str, config: dict[str, Any]) -> bool:
    """Whether the text of an override means the value in a flat config."""
    stored = tuples(config[name])
    theirs = text_of(stored)
    if text.strip().lower() == theirs.lower():
        return True
    with contextlib.suppress(InputError, KeyError):
        type = FIELDS[name].type if name in FIELDS else type_of(configs.restore(config), name)
        return check(text, type, name, parsing=True) == stored
    pairs = list(zip(text.split(","), theirs.split(","), strict=False))
    try:
        return len(text.split(",")) == len(pairs) and all(float(a) == float(b) for a, b in pairs)
    except ValueError:
        return False


def _other_run(config, starts, summary) -> str | None:
    """Compare config.json, run.json and summary.json."""
    lines = identity.contradictions(config, starts[0]["config"]) if starts else []
    if lines:
        return f"config.json and run.json are of two runs ({'; '.join(lines[:3])})"
    for name, field in (("seed", "seed"), ("model", "model.name")):
        if name in summary and field in config and summary[name] != config[field]:
            return f"summary.json is of another run: {name}: {summary[name]!r}"
    return None


def _implausible(lines, summary) -> str | None:
    for line in (*(line for line in lines if line["step"] == summary["step"]), summary):
        reason = implausible(line)
        if reason:
            return f"{reason}, at step {line.get('step')}"
    return None


def _contradiction(path: Path, summary, lines) -> str | None:
    """Compare the metric lines with the summary and with their copy in the newest checkpoint."""
    last = {line["split"]: line for line in lines if line["step"] == summary["step"]}
    for split in ("train", "test"):
        for name in ("accuracy", "loss"):
            written = summary.get(f"{split}_{name}")
            if written is not None and written != last.get(split, {}).get(name):
                return f"metrics.jsonl and summary.json differ in {split}_{name}"
    copy = path / "checkpoints" / str(summary["step"]) / "metrics.jsonl"
    with contextlib.suppress(OSError, ValueError, RunError):  # checkpoints may be deleted
        # A pipe would wait for its writer.
        if copy.is_file() and json_files.read_lines(copy) != lines:
            return f"metrics.jsonl differs from the metric lines in checkpoint {summary['step']}"
    return None
