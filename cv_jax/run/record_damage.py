"""Whether the records of a run are whole, and of this run: for `python -m cv_jax verify`."""

import contextlib
import json
from pathlib import Path
from typing import Any

from cv_jax.errors import InputError
from cv_jax.run import class_names, json_files, lock, owner
from cv_jax.run.starts import known_starts, read_starts, require_one_run


def damage(path: Path, kept: str, newest: int | None = None) -> list[str]:
    """Return one line for each record of a run that is damaged or of another run.

    Args:
      path: the run directory.
      kept: the metric lines in its newest sound checkpoint.
      newest: step of this checkpoint; `None` if it is unknown.
    """
    found = []
    names = ("config.json", class_names.FILE, "run.json", "summary.json")
    files = [path / name for name in names]
    for file in [*files, *sorted(path.glob("evaluation*.json"))]:
        try:
            reason = _examined(file, kept, newest)
        except FileNotFoundError:
            reason = "is missing" if _is_needed(file) else None
        except (json_files.Damaged, InputError) as error:
            reason = str(error)
        found += [f"{file}: {reason}"] if reason else []
    file = path / "metrics.jsonl"
    text = json_files.beginning(file, len(kept.encode()) + 1)
    # A run that continues from an older checkpoint writes the lines after it again.
    again = kept.encode().startswith(text) and lock.in_use(path)
    if not (text.startswith(kept.encode()) or again):
        found.append(f"{file}: it does not start with the metric lines of the newest checkpoint")
    elif len(text) > len(kept.encode()) and _has_ended(path, newest):
        found.append(f"{file}: it goes on after the metric lines of the last checkpoint")
    return found


def _has_ended(path: Path, newest: int | None) -> bool:
    """Whether the summary of a run is of its newest checkpoint."""
    try:
        return json_files.read_record(path / "summary.json").get("step") == newest
    except (json_files.Damaged, FileNotFoundError):
        return False


def _is_needed(file: Path) -> bool:
    """Whether a missing record was lost: another one tells that the run had it."""
    if file.name == class_names.FILE:  # older runs have no names of classes
        return any("classes" in start for start in known_starts(file.parent))
    others = {"config.json": "run.json", "run.json": "config.json"}
    return file.name in others and (file.parent / others[file.name]).exists()


def _examined(file: Path, kept: str, newest: int | None) -> str | None:
    """Return why a sound record does not belong to the run in its directory; `None` if it does."""
    path = file.parent
    if file.name == "run.json":
        read_starts(path)
        return None
    if file.name == class_names.FILE:
        if not class_names.read(path):
            raise FileNotFoundError
        return None
    record = json_files.read_record(file)
    if file.name == "config.json":
        require_one_run(path, record, known_starts(path))
        return None
    with contextlib.suppress(json_files.Damaged, FileNotFoundError):
        config = json_files.read_record(path / "config.json")
        for name, field in (("seed", "seed"), ("model", "model.name")):
            if name in record and record[name] != config.get(field):
                return f"it is of another run: {name}: {record[name]!r}, not {config.get(field)!r}"
    if record.get("run") not in (None, *owner.of(path).names):
        return "it is of another run"
    lines = [json.loads(line) for line in kept.splitlines()]
    return _contradiction(record, lines, None if lock.in_use(path) else newest)


def _contradiction(
    record: dict[str, Any], lines: list[dict[str, Any]], newest: int | None
) -> str | None:
    """Compare a summary or an evaluation with the metric lines of its step.

    Args:
      record: the summary or the evaluation.
      lines: the metric lines in the newest sound checkpoint.
      newest: step of this checkpoint, which that of a summary equals; `None` if it is unknown, or
        if the run goes on, perhaps from an older checkpoint.
    """
    step = record.get("step")
    if not isinstance(step, int) or isinstance(step, bool):
        return f"its step is {step!r}"
    if "test_loss" in record and newest not in (None, step):
        return f"its step is {step}, that of the newest sound checkpoint {newest}"
    last = {line["split"]: line for line in lines if line["step"] == step}
    for key, value in record.items():
        split, _, name = key.partition("_")
        known = last.get(split, {}) if split in ("train", "test") else {}
        if name in known and repr(value) != repr(known[name]):  # also if it is NaN
            return f"it is of another run: {key} differs from that in the metric lines"
    return None
