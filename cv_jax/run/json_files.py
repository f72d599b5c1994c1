"""Files of JSON that are written whole, and told from damaged ones.

A damaged byte must not pass for a result. A record carries the SHA-256 of its content, which is
checked when it is read. Files are written atomically; lines are on disk when they are added.
"""

import contextlib
import hashlib
import json
import logging
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cv_jax.errors import RunError

logger = logging.getLogger(__name__)


class Damaged(RunError):
    """A record is not as it was written."""


def sealed(record: dict[str, Any]) -> dict[str, Any]:
    """The record with the SHA-256 of its content, as JSON holds it."""
    content = json.loads(json.dumps(record))
    text = json.dumps(content, sort_keys=True)
    return {**content, "sha256": hashlib.sha256(text.encode()).hexdigest()}


def unsealed(record: Any) -> dict[str, Any]:
    """What `sealed` was given.

    Raises:
      Damaged: its content is another, or it bears no digest.
    """
    if not isinstance(record, dict) or "sha256" not in record:
        raise Damaged("it bears no SHA-256 of its content")
    content = {name: value for name, value in record.items() if name != "sha256"}
    if sealed(content)["sha256"] != record["sha256"]:
        raise Damaged("its content does not have the SHA-256 that it bears")
    return content


def write_record(path: Path, record: dict[str, Any]) -> None:
    """Writes a sealed record, atomically."""
    write_json(path, sealed(record))


def restore_record(path: Path, record: dict[str, Any]) -> None:
    """Writes a record anew if the file does not hold it."""
    text = _json_text(sealed(record))
    if path.read_bytes() != text.encode():
        logger.warning("%s is damaged and written again", path)
        _write_text(path, text)


def read_record(path: Path) -> dict[str, Any]:
    """A record that `write_record` wrote.

    Raises:
      FileNotFoundError: there is none.
      Damaged: it is not as it was written.
    """
    return unsealed(read_json(path, dict))


def read_json(path: Path, type: type) -> Any:
    """The value of that type that `write_json` wrote.

    Raises:
      FileNotFoundError: there is none.
      Damaged: it is not as it was written, as far as its form tells.
    """
    try:
        text = path.read_text()
        value = json.loads(text)
    except FileNotFoundError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise Damaged(" ".join(str(error).split())) from None
    if not isinstance(value, type):
        raise Damaged(f"it holds no {type.__name__}")
    if _json_text(value) != text:
        raise Damaged("it holds what was not written so")
    return value


def write_json(path: Path, value: Any) -> None:
    """Writes a file atomically: readers see the old one or the new one, whole."""
    _write_text(path, _json_text(value))


def _json_text(value: Any) -> str:
    text = json.dumps(value, indent=2) + "\n"
    # A list of numbers takes one line: a confusion matrix has one for each class.
    return re.sub(r"\[\n[-+\w.,\s]*\]", lambda found: " ".join(found[0].split()), text)


def _write_text(path: Path, text: str) -> None:
    with _told(path), tempfile.TemporaryDirectory(dir=path.parent, prefix=".writing-") as scratch:
        with (Path(scratch) / path.name).open("w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(file.name, path)


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    """Makes a failure to write the file a `RunError` that names it."""
    try:
        yield
    except OSError as error:
        raise RunError(f"{path} cannot be written: {error.strerror or error}") from None


def append_line(path: Path, value: dict[str, Any]) -> None:
    """Adds one JSON object as a line, on disk when this returns."""
    with _told(path), path.open("a") as file:
        file.write(json.dumps(value) + "\n")
        file.flush()
        os.fsync(file.fileno())


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a file of lines; a last line that was cut short is left out.

    Raises:
      RunError: a whole line is no JSON.
    """
    if not path.is_file():
        return []
    try:
        text = path.read_text()
        return [json.loads(line) for line in text.splitlines(True) if line.endswith("\n")]
    except ValueError as error:
        raise RunError(f"{path} is damaged: {error}") from None


class Lines:
    """The metric lines of a run: a file, and in memory what it has to hold.

    Attributes:
      path: the file.
      text: all lines up to now; what a checkpoint keeps.
    """

    def __init__(self, path: Path, text: str):
        """Makes the file hold `text`: the lines that the checkpoint kept from which a run goes on,
        nothing for a new one. Lines of later steps are dropped, for the run writes them again."""
        self.path, self.text = path, text
        self.restore(later=True)

    def values(self) -> list[dict[str, Any]]:
        """The lines as objects."""
        return [json.loads(line) for line in self.text.splitlines()]

    def append(self, value: dict[str, Any]) -> None:
        """Adds a line, on disk when this returns."""
        append_line(self.path, value)
        self.text += json.dumps(value) + "\n"

    def restore(self, later: bool = False) -> None:
        """Writes the file anew if it is not as it was written, apart from `later` lines."""
        there = self.path.read_bytes() if self.path.is_file() else b""
        if there == self.text.encode():
            return
        if not (later and there.startswith(self.text.encode())):
            logger.warning("%s is damaged and written again", self.path)
        _write_text(self.path, self.text)
