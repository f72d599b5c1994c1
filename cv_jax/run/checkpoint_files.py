"""The files of finished checkpoints, read without orbax.

A run may save while another process reads its checkpoints: a checkpoint that is no longer needed is
renamed, then deleted. Who reads a checkpoint takes its `inode` before and after. Equal ones prove
that nothing in it was deleted meanwhile.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cv_jax.data import fingerprint
from cv_jax.errors import one_line
from cv_jax.run import json_files
from cv_jax.run import owner as owners
from cv_jax.run.owner import Owner

RETRIES = 100  # to read checkpoints of a run that deletes them meanwhile


def finished(folder: Path) -> list[int]:
    """Return the steps of the finished checkpoints in a folder, ascending."""
    return sorted(int(name) for name in _names(folder) if _is_step(name))


def misnamed(folder: Path) -> list[Path]:
    """Return what has a number for a name, but not as a step is written: `024` for 24."""
    return [folder / name for name in _names(folder) if name.isdecimal() and not _is_step(name)]


def _names(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return []


def _is_step(name: str) -> bool:
    return name.isascii() and name.isdecimal() and name == str(int(name))


def inode(checkpoint: Path) -> tuple[int, int] | None:
    """Return what tells a folder from another that gets its name later; `None` if it is gone."""
    try:
        found = os.lstat(checkpoint)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def read_meta(checkpoint: Path) -> dict[str, Any]:
    """Return the content of `meta.json`; {} if it is unreadable, which restoring reports."""
    try:
        return json_files.read_object(checkpoint / "meta.json")
    except (json_files.Damaged, OSError):
        return {}


def read_metrics(checkpoint: Path) -> dict[str, float]:
    """Return the metrics of the evaluation at a checkpoint's step; empty without one."""
    found = read_meta(checkpoint).get("metrics")
    return found if isinstance(found, dict) else {}


def read_lines(checkpoint: Path) -> str:
    """Return the run's metric lines up to a checkpoint's step."""
    return (checkpoint / "metrics.jsonl").read_text()


def digests(folder: Path) -> dict[str, str]:
    """Return relative path → SHA-256 of every file below a folder except `digests.json`."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path != folder / "digests.json":
            found[path.relative_to(folder).as_posix()] = fingerprint.sha256(path)
    return found


def damage(checkpoint: Path, owner: Owner | None = None) -> str | None:
    """Return in one line why a checkpoint cannot be used; `None` if it can.

    It is damaged, of another step than its name says, or of another run.

    Args:
      checkpoint: folder of the checkpoint, in the folder `checkpoints` of a run directory.
      owner: what the run knows of its checkpoints; default: what the run directory says.
    """
    try:
        written = json_files.read_object(checkpoint / "digests.json")
        present = digests(checkpoint)
    except (json_files.Damaged, OSError) as error:
        return f"digests.json or another file is unreadable: {one_line(error)}"
    for name in sorted({*written, *present, "meta.json", "metrics.jsonl"}):
        if name not in present:
            return f"{name} is missing"
        if name not in written:
            return f"{name} does not belong to the checkpoint"
        if written[name] != present[name]:
            return f"{name} differs from what was written"
    return stray(checkpoint, owner or owners.of(checkpoint.absolute().parents[1]))


def stray(checkpoint: Path, owner: Owner) -> str | None:
    """Return why an intact checkpoint does not belong where it lies; `None` if it does."""
    meta = read_meta(checkpoint)
    step = meta.get("step")
    if str(step) != checkpoint.name:
        return f"it is the checkpoint of step {step}"
    return owner.objection(meta.get("mark"))


def newest_sound(
    folder: Path, newest: int | None, owner: Owner | None, reject: Callable[[Path, str], None]
) -> int | None:
    """Return the step of the newest checkpoint that can be used; `None` without one.

    Args:
      folder: folder of the checkpoints.
      newest: ignore later steps.
      owner: see `damage`.
      reject: called with each newer checkpoint that cannot be used, and the reason.
    """
    for _ in range(RETRIES):
        gone = False
        for step in reversed(finished(folder)):
            if newest is None or step <= newest:
                reason = examined(folder / str(step), owner)
                if reason is None:
                    return step
                gone = gone or reason == ""
                if reason:
                    reject(folder / str(step), reason)
        if not gone:  # a run saves newer checkpoints before it deletes one
            break
    return None


def examined(checkpoint: Path, owner: Owner | None = None) -> str | None:
    """Return `damage`; "" if the run has deleted or replaced the checkpoint meanwhile."""
    before = inode(checkpoint)
    reason = damage(checkpoint, owner)
    return reason if before is not None and inode(checkpoint) == before else ""
