"""Paths that the user gives: one line for what is not a file, or cannot be a folder; and JSON."""

import json
import os
import stat
from pathlib import Path
from typing import Any

from cv_jax.errors import InputError

JSON_BYTES = 2**24  # a parsed text may take thirty times its size

_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISREG, "a file"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
)


def described(path: Path) -> str:
    """Return what is at a path: "is a folder", "is a device", "does not exist", …

    Raises:
      PermissionError: a folder above the path cannot be entered.
    """
    try:
        mode = os.stat(path).st_mode
    except PermissionError:
        raise
    except OSError:
        return "is a link to a missing file" if os.path.islink(path) else "does not exist"
    return next(f"is {kind}" for matches, kind in _KINDS if matches(mode))


def require_file(path: Path, where: str = "") -> None:
    """Check that a path is a file: a pipe would wait for its writer, and a device may never end.

    Args:
      path: the path.
      where: text before the path in the error message.

    Raises:
      InputError: the path is something else, or does not exist.
      PermissionError: the file cannot be read, or a folder above it cannot be entered.
    """
    if not path.is_file():
        raise InputError(f"{where}{path} {described(path)}; give a file")
    path.open("rb").close()  # libraries report a missing permission in other words


def require_folder(path: Path, flag: str) -> None:
    """Check that a path is a folder or can become one, as far as its parents show.

    Raises:
      InputError: the path or a parent of it is something else, or its name is not valid UTF-8.
      PermissionError: a folder above the path cannot be entered.
    """
    require_utf8(path, flag)
    for parent in (path, *path.parents):
        if os.path.lexists(parent):
            if not parent.is_dir():
                which = "" if parent == path else f": {parent}"
                raise InputError(f"{flag}={path}{which} {described(parent)}; give a folder")
            return


def require_new_file(path: Path, flag: str, force: bool) -> None:
    """Check that a command may write a file.

    Args:
      path: the path.
      flag: command-line flag of the path.
      force: whether to overwrite a file.

    Raises:
      InputError: the path exists and may not be overwritten, or its folder is missing.
      PermissionError: a folder above the path cannot be entered.
    """
    if os.path.lexists(path):
        if not force:
            raise InputError(f"{path} exists; add --force to overwrite it")
        if not path.is_file():
            raise InputError(f"{flag}={path} {described(path)}; give a file")
    folder = path.absolute().parent
    if not folder.is_dir():
        raise InputError(f"{flag}={path}: {folder} {described(folder)}; give a folder")


def require_utf8(path: Path, flag: str) -> None:
    """Raise an `InputError` for a name that is not valid UTF-8: JAX and ArrayRecord refuse it."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise InputError(f"{flag}={path} is not valid UTF-8; rename it") from None


def read_json(path: Path) -> Any:
    """Return the value in a JSON file that others may have written.

    Raises:
      FileNotFoundError: the file does not exist.
      OSError: it cannot be read.
      ValueError: it is not a file, larger than `JSON_BYTES`, or not JSON.
    """
    if not path.is_file() and path.exists():
        raise ValueError(f"{described(path)}, not a file")
    with path.open("rb") as file:
        return parse_json(file.read(JSON_BYTES + 1))


def parse_json(text: str | bytes) -> Any:
    """Return the value of a JSON text that others may have written.

    Raises:
      ValueError: the text is longer than `JSON_BYTES`, or not JSON, or nested too deeply.
    """
    if len(text) > JSON_BYTES:
        raise ValueError(f"JSON of more than {JSON_BYTES:,} bytes")
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("JSON is nested too deeply") from None
