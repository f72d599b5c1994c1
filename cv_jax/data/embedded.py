"""The embedded datasets: TFDS datasets that are written on first use, without a download."""

import contextlib
import importlib
import io
import os
import shutil
import tempfile
from pathlib import Path

import tensorflow_datasets as tfds

# Name → module and class of its TFDS builder.
EMBEDDED = {
    "digits": "cv_jax.data.digits:Digits",
    "digits_canvas": "cv_jax.data.canvas:DigitsCanvas",
    "numbers": "cv_jax.data.strips:Numbers",
    "copy": "cv_jax.data.symbols:Copy",
    "reverse": "cv_jax.data.symbols:Reverse",
    "sort": "cv_jax.data.symbols:Sort",
}


def ensure(name: str, folder: Path) -> Path:
    """Write the dataset if it does not exist; return the TFDS folder that contains it.

    Safe for concurrent processes: each process writes a temporary folder beside the target and
    renames it; if the target exists by then, the copy is deleted.

    Args:
      name: a key of `EMBEDDED`.
      folder: TFDS data folder. If it is not writable, the user's cache is used.
    """
    module, _, builder_name = EMBEDDED[name].partition(":")
    builder_class = getattr(importlib.import_module(module), builder_name)
    goal = folder / name / str(builder_class.VERSION)
    if (goal / "dataset_info.json").is_file():
        return folder
    try:
        goal.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=".writing-", dir=goal.parent))
    except OSError:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cv_jax" / "tfds"
        if folder == cache:
            raise
        return ensure(name, cache)
    try:
        builder = builder_class(data_dir=scratch, file_format="array_record")
        with contextlib.redirect_stdout(io.StringIO()):  # TFDS prints two lines and a progress bar
            tfds.disable_progress_bar()
            builder.download_and_prepare()
        try:
            os.rename(scratch / name / goal.name, goal)
        except OSError:
            if not (goal / "dataset_info.json").is_file():
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return folder
