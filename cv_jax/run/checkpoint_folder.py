"""Moves and deletes checkpoints in the folder `checkpoints` of a run; the caller holds its lock."""

import itertools
import logging
import os
import re
import secrets
import shutil
from pathlib import Path

WRITING, DELETING = ".writing", ".deleting"
_OWN = re.compile(rf"[0-9]+[.\w-]*({re.escape(WRITING)}|{re.escape(DELETING)})", re.ASCII)

logger = logging.getLogger(__name__)


def delete(checkpoint: Path) -> None:
    """Delete a checkpoint of the run."""
    # Renamed first: a partly deleted checkpoint must not look finished. The name is new, because an
    # earlier deletion may have failed.
    doomed = checkpoint.with_name(f"{checkpoint.name}.{secrets.token_hex(4)}{DELETING}")
    os.rename(checkpoint, doomed)
    remove(doomed)


def remove(folder: Path) -> None:
    """Remove a folder as far as possible; `rmtree` would wait for the writer of a pipe."""
    if folder.is_dir():
        shutil.rmtree(folder, ignore_errors=True)


def clear_unfinished(folder: Path) -> None:
    """Finish deletions, and set unfinished checkpoints aside."""
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if _OWN.fullmatch(path.name):
            if path.name.endswith(DELETING):
                remove(path)
            else:
                set_aside(path, "unfinished: the run ended while it was being written")


def only_unfinished(folder: Path) -> bool:
    """Whether a folder of checkpoints holds nothing except unfinished ones."""
    return all(_OWN.fullmatch(path.name) for path in folder.iterdir())


def set_aside(path: Path, reason: str) -> None:
    """Move a checkpoint that cannot be used to `damaged`, with its reason, and log the reason."""
    logger.warning("checkpoint %s is moved aside: %s", path, reason)
    name = path.name
    if name.endswith(WRITING):
        # A partial state is useless; keep only the last, so that kills do not fill the disk.
        name = "unfinished"
        remove(path.parent / "damaged" / name)
    folder = path.parent / "damaged"
    names = (name if count == 1 else f"{name}-{count}" for count in itertools.count(1))
    goal = next(folder / free for free in names if not os.path.lexists(folder / free))
    folder.mkdir(exist_ok=True)
    os.rename(path, goal)
    inside = goal.is_dir() and not goal.is_symlink()
    note = goal / "REASON.txt" if inside else goal.with_name(f"{goal.name}.REASON.txt")
    note.write_text(f"{path.name}: {reason}\n")
