"""`classes.json` of a run directory: names of the classes, in the order of the classifier.

The names are those of the training split at the first start. A folder or the labels of a dataset
may change later; the trained classifier does not. Each start in `run.json` has their digest.
"""

import hashlib
import itertools
import json
import logging
from pathlib import Path

from cv_jax.errors import InputError
from cv_jax.run import json_files, starts

FILE = "classes.json"

logger = logging.getLogger(__name__)


def read(path: Path) -> tuple[str, ...]:
    """Return the names; () if the run has none: an older run, or classes without names.

    Raises:
      json_files.Damaged: the content differs from the content that was written.
    """
    try:
        names = tuple(json_files.read_record(path / FILE)["classes"])
    except FileNotFoundError:
        return ()
    except (KeyError, TypeError):
        raise json_files.Damaged("it has no names of classes") from None
    known = {start["classes"] for start in starts.known_starts(path) if "classes" in start}
    if known and digest(names) not in known:
        raise json_files.Damaged("it is of another run")
    return names


def digest(names: tuple[str, ...]) -> str:
    """Return sixteen hexadecimal digits of a hash over names."""
    return hashlib.sha256(json.dumps(names).encode()).hexdigest()[:16]


def check(path: Path, names: tuple[str, ...], ways_out: str) -> None:
    """Check that a run has these names, or none.

    Raises:
      InputError: the names differ.
    """
    try:
        before = read(path)
    except json_files.Damaged:  # `record` writes it again
        return
    if not before or not names or before == names:
        return
    pairs = enumerate(itertools.zip_longest(before, names))
    number, (old, new) = next((k, pair) for k, pair in pairs if pair[0] != pair[1])
    was, now = ("missing" if name is None else repr(name) for name in (old, new))
    raise InputError(
        f"--workdir={path} was started with other classes; {ways_out}: class {number} was {was}, "
        f"is now {now}"
    )


def record(path: Path, names: tuple[str, ...]) -> None:
    """Write the names at the first start, and again if the file is damaged."""
    try:
        known = read(path)
    except json_files.Damaged:
        logger.warning("%s is damaged and written again", path / FILE)
        known = ()
    if names and not known:
        json_files.write_record(path / FILE, {"classes": list(names)})
