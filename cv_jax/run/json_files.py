"""Atomic, checksummed JSON files, and files with one JSON object a line.

A record holds the SHA-256 of its content, which is checked when it is read, so a damaged file is
never taken for a result. Files are replaced atomically; an appended line is on disk (fsync) when
the function returns.

A `guard` is called before a write; it raises if the file is no longer this process's to write.

Files above a limit are damaged, and are not read: one of terabytes may take no place on the disk.
"""

import contextlib
import errno
import hashlib
import json
import logging
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from cv_jax.errors import RunError, one_line
from cv_jax.paths import described

RECORD_BYTES = 2**26
LINES_BYTES = 2**28

logger = logging.getLogger(__name__)


Guard = Callable[[], None]


def _no_guard() -> None:
    pass


class Damaged(RunError):
    """The content of a file differs from the content that was written."""


def sealed(record: dict[str, Any]) -> dict[str, Any]:
    """Return the record, as JSON would store it, with the SHA-256 of its content."""
    content = json.loads(json.dumps(record))
    return {**content, "sha256": _digest(content)}


def unsealed(record: Any) -> dict[str, Any]:
    """Return the content of a sealed record.

    Raises:
      Damaged: the SHA-256 is missing or differs from that of the content.
    """
    if not isinstance(record, dict) or "sha256" not in record:
        raise Damaged("the SHA-256 is missing")
    content = {name: value for name, value in record.items() if name != "sha256"}
    if _digest(content) != record["sha256"]:
        raise Damaged("the SHA-256 differs from that of the content")
    return content


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def write_record(path: Path, record: dict[str, Any], guard: Guard = _no_guard) -> None:
    """Write a sealed record atomically."""
    write_json(path, sealed(record), guard)


def read_record(path: Path) -> dict[str, Any]:
    """Read a record of `write_record`.

    Raises:
      FileNotFoundError: the file does not exist.
      Damaged: the content differs from the content that was written.
    """
    return unsealed(read_json(path, dict))


def read_json(path: Path, type: type) -> Any:
    """Read a value of `write_json`.

    Args:
      path: the file.
      type: type of the value, dict or list.

    Raises:
      FileNotFoundError: the file does not exist.
      Damaged: the file holds no such value, or its text differs from the output of `write_json`.
    """
    text, value = _read(path, type)
    if _json_text(value) != text:
        raise Damaged("the text differs from the form in which values are written")
    return value


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON object in any form of its text.

    Raises:
      FileNotFoundError: the file does not exist.
      Damaged: the file holds no object.
    """
    return _read(path, dict)[1]


def read_text(path: Path, most: int, errors: str = "strict") -> str:
    """Return the text of a file.

    Args:
      path: the file.
      most: limit of its size in bytes.
      errors: see `open`.

    Raises:
      Damaged: the file is larger.
      OSError, UnicodeDecodeError: it cannot be read.
    """
    with path.open(errors=errors) as file:
        size = os.fstat(file.fileno()).st_size
        if size > most:
            raise Damaged(f"it has {size:,} bytes, more than the limit of {most:,}")
        return file.read(size + 1)  # Python reserves as much memory as it may read


def _read(path: Path, type: type) -> tuple[str, Any]:
    try:
        if os.path.lexists(path) and not path.is_file():  # reading a pipe or a device may not end
            raise Damaged(f"it {described(path)}")
        text = read_text(path, RECORD_BYTES)
        value = json.loads(text)
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path)) from None
    except PermissionError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise Damaged(one_line(error)) from None
    if not isinstance(value, type):
        raise Damaged(f"the content is not a {type.__name__}")
    return text, value


def write_json(path: Path, value: Any, guard: Guard = _no_guard) -> None:
    """Write a file atomically: readers see the complete old content or the complete new content."""
    replace(path, _json_text(value), guard)


def _json_text(value: Any) -> str:
    text = json.dumps(value, indent=2) + "\n"
    # A list of numbers takes one line, so a confusion matrix has one line for each class.
    return re.sub(r"\[\n[-+\w.,\s]*\]", lambda found: " ".join(found[0].split()), text)


def write_synced(path: Path, text: str, mode: str = "w", guard: Guard = _no_guard) -> None:
    """Write text to a file; it is on disk when this returns."""
    with path.open(mode) as file:
        guard()  # now the file stays the same, whatever gets its name
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def replace(path: Path, text: str, guard: Guard = _no_guard) -> None:
    """Write text to a file atomically."""
    prefix = ".writing-"
    with _write_errors(path), tempfile.TemporaryDirectory(dir=path.parent, prefix=prefix) as folder:
        write_synced(Path(folder) / path.name, text)
        guard()  # a directory that takes the place of this one has no folder of that name
        os.replace(Path(folder) / path.name, path)


@contextlib.contextmanager
def _write_errors(path: Path) -> Iterator[None]:
    """Turn a failure to write the file into a `RunError` with its path."""
    try:
        yield
    except OSError as error:
        raise RunError(f"{path} cannot be written: {error.strerror or error}") from None


def append_line(path: Path, value: dict[str, Any], guard: Guard = _no_guard) -> None:
    """Append one JSON object as a line; it is on disk when this returns."""
    guard()
    with _write_errors(path):
        write_synced(path, json.dumps(value) + "\n", "a", guard)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read the objects of a file of lines, without an incomplete last line.

    Raises:
      RunError: a complete line is not valid JSON, or the file is larger than `LINES_BYTES`.
    """
    if not path.is_file():
        return []
    try:
        text = read_text(path, LINES_BYTES)
        return [json.loads(line) for line in text.splitlines(True) if line.endswith("\n")]
    except (ValueError, RecursionError, Damaged) as error:
        raise RunError(f"{path} is damaged: {error}") from None


def beginning(path: Path, size: int) -> bytes:
    """Return at most `size` bytes of a file; b"" without a file."""
    if not path.is_file():
        return b""
    with path.open("rb") as file:
        return file.read(size)


class Lines:
    """The metric lines of a run, in a file and in memory.

    Attributes:
      path: the file.
      text: all lines so far; every checkpoint stores them.
    """

    def __init__(self, path: Path, text: str, guard: Guard = _no_guard):
        """Set the content of the file to `text` and drop later lines; the run writes them again.

        Args:
          path: the file.
          text: the lines in the restored checkpoint; empty for a new run.
          guard: see above.
        """
        self.path, self.text, self._guard = path, text, guard
        self.restore(later=True)

    def values(self) -> list[dict[str, Any]]:
        """Return the lines as objects."""
        return [json.loads(line) for line in self.text.splitlines()]

    def append(self, value: dict[str, Any]) -> None:
        """Append a line; it is on disk when this returns."""
        append_line(self.path, value, self._guard)
        self.text += json.dumps(value) + "\n"

    def restore(self, later: bool = False) -> None:
        """Write the file again if its content differs; `later` lines alone are not damage."""
        content = beginning(self.path, len(self.text.encode()) + 1)
        leads_nowhere = os.path.lexists(self.path) and not self.path.is_file()
        if content == self.text.encode() and not leads_nowhere:
            return
        if not (later and content.startswith(self.text.encode())):
            logger.warning("%s is damaged and written again", self.path)
        replace(self.path, self.text, self._guard)
