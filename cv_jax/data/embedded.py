"""The embedded datasets: TFDS datasets that are written on first use, without a download."""

import contextlib
import fcntl
import importlib
import io
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import tensorflow_datasets as tfds

from cv_jax.errors import RunError, one_line

# Name → module and class of its TFDS builder.
EMBEDDED = {
    "digits": "cv_jax.data.digits:Digits",
    "digits_canvas": "cv_jax.data.canvas:DigitsCanvas",
    "numbers": "cv_jax.data.strips:Numbers",
    "copy": "cv_jax.data.symbols:Copy",
    "reverse": "cv_jax.data.symbols:Reverse",
    "sort": "cv_jax.data.symbols:Sort",
}


_SCRATCH = ".writing-"


def ensure(name: str, folder: Path) -> Path:
    """Write the dataset if it does not exist; return the TFDS folder that contains it.

    Safe for concurrent processes: a process writes a temporary folder beside the target and renames
    it, while others wait. Where locks do not work, each writes its own; if the target exists by
    then, the copy is deleted. Temporary folders of killed processes are deleted.

    Args:
      name: a key of `EMBEDDED`.
      folder: TFDS data folder. If it is not writable, the user's cache is used.

    Raises:
      RunError: the dataset cannot be written, for example because the disk is full.
    """
    module, _, builder_name = EMBEDDED[name].partition(":")
    builder_class = getattr(importlib.import_module(module), builder_name)
    goal = folder / name / str(builder_class.VERSION)
    if _complete(goal):
        return folder
    with contextlib.ExitStack() as stack:
        try:
            goal.parent.mkdir(parents=True, exist_ok=True)
            locked = stack.enter_context(_locked(goal.parent))
            if _complete(goal):  # written by another process meanwhile
                return folder
            for leftover in goal.parent.glob(f"{_SCRATCH}*") if locked else ():
                shutil.rmtree(leftover, ignore_errors=True)
            scratch = Path(tempfile.mkdtemp(prefix=_SCRATCH, dir=goal.parent))
        except OSError:
            caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
            cache = caches / "cv_jax" / "tfds"
            if folder == cache:
                raise
            return ensure(name, cache)
        stack.callback(shutil.rmtree, scratch, ignore_errors=True)
        _write(builder_class, scratch, goal)
    return folder


def _complete(goal: Path) -> bool:
    return (goal / "dataset_info.json").is_file()


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    """Lock a folder, after other processes; yield whether it is locked.

    The lock ends with the process. Some network file systems cannot lock a folder.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        locked = True
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError:
            locked = False
        yield locked
    finally:
        os.close(descriptor)


def _write(builder_class: type[tfds.core.DatasetBuilder], scratch: Path, goal: Path) -> None:
    """Write a dataset into `scratch`, and rename it to `goal`."""
    builder = builder_class(data_dir=scratch, file_format="array_record")
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # TFDS prints two lines and a progress bar
            tfds.disable_progress_bar()
            builder.download_and_prepare()
    except Exception as error:  # the writers of records raise RuntimeError
        reason = one_line(error, 300)
        raise RunError(f"dataset {builder.name!r} cannot be written to {goal}: {reason}") from None
    try:
        os.rename(scratch / builder.name / goal.name, goal)
    except OSError:
        if not _complete(goal):
            raise
