"""Digests of the examples that a run reads: the first reading is noted, later ones are compared.

For data whose files are not hashed at each start; see `fingerprint`. A run directory has a file for
each split and each process of the run, `digests/train-0.bin`:

    32 bytes     SHA-256 of what identifies the split; another split has another file
    8 bytes × N  one number for each example, little-endian; 0: not read yet

A number has 48 bits of the SHA-256 of the encoded example and its label, and 16 bits that are a
function of these and of the position: damage of the file is told from changed data. Threads and
loader processes write whole numbers, each at its place: a killed run leaves a sound file.
"""

import dataclasses
import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cv_jax.data import decode
from cv_jax.errors import InputError, RunError
from cv_jax.paths import described

FOLDER = "digests"

_HEAD, _SIZE = 32, 8
_BITS = 48
_WORD = 2**64 - 1
_FACTORS = 0x9E3779B97F4A7C15, 0xD6E8FEB86659FD93  # odd, with mixed bits

logger = logging.getLogger(__name__)


class Changed(InputError):
    """An example, or its label, is not the one that the run read first."""


class Noted:
    """The records of a split, which note each example that is read; in files after `keep`."""

    _files: tuple[int, ...] = ()  # file descriptors

    def __init__(
        self, records: Any, name: str, identity: dict[str, Any], max_pixels: int = decode.MAX_PIXELS
    ):
        """
        Args:
          records: the encoded examples; see `source.Records`.
          name: of the dataset, for messages.
          identity: JSON-serialisable; what decides which example has which index.
          max_pixels: see `decode.read_file`.
        """
        self.records, self._name, self._max_pixels = records, name, max_pixels
        identity = {**identity, "count": len(records)}
        self._head = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).digest()
        self._known = np.zeros(len(records), np.uint64)
        self._folder: Path | None = None
        self._paths: tuple[Path, ...] = ()

    def __getstate__(self):  # for loader processes, which open the files again
        return {**vars(self), "_files": ()}

    def __setstate__(self, state: dict[str, Any]):
        vars(self).update(state)
        self._open()

    def __del__(self):
        self._close()

    def __len__(self) -> int:
        return len(self.records)

    def place(self, index: int) -> str:
        return self.records.place(index)

    def labels(self, progress: Callable) -> np.ndarray:
        return self.records.labels(progress)

    def __getitem__(
        self, index: int
    ) -> tuple[bytes | np.ndarray | Sequence[int], int | Sequence[int]]:
        """An encoded image, its pixels or a sequence, and its label; a file is read here.

        Raises:
          Changed: the example or its label has changed since the run read it first.
          RunError: the digest cannot be written.
        """
        data, label = self.records[index]
        if isinstance(data, Path):
            data = decode.read_file(data, self._max_pixels)
        number = _number(index, data, label)
        known = int(self._known[index]) or self._noted(index)
        if known and known != number:
            raise self._changed(index)
        if not known:
            self._note(index, number)
        self._known[index] = number
        return data, label

    def learn(self, folder: Path, split: str) -> np.ndarray:
        """Learn what all processes of a run have noted; return the indices of known examples, [K].

        What is damaged, or of other data, is named and not used.

        Args:
          folder: the run directory.
          split: name in the names of the files.

        Raises:
          Changed: an example differs from what is known.
          InputError: something else is in the place of a file.
        """
        self._folder = folder / FOLDER
        for file in sorted(self._folder.glob(f"{split}-*.bin")):
            noted = self._content(file)
            if noted is None:
                logger.warning("%s is damaged or of other data, and not used", file)
                continue
            index = np.arange(len(noted), dtype=np.uint64)
            damaged = (noted != 0) & ~_is_sound(index, noted)
            if damaged.any():
                logger.warning("%s: %d digests are damaged and forgotten", file, damaged.sum())
                noted = np.where(damaged, 0, noted)
            differ = np.flatnonzero((noted != 0) & (self._known != 0) & (noted != self._known))
            if len(differ):
                raise self._changed(int(differ[0]))
            self._known = np.where(noted, noted, self._known)
        return np.flatnonzero(self._known)

    def keep(self, folders: Iterable[Path], split: str, process: int = 0) -> None:
        """Compare with the digests in run directories, and write new ones there from now on.

        Args:
          folders: run directories; several for runs of one program that share their data.
          split: name in the names of the files.
          process: index of this process. Processes do not share a file, which file systems of
            several hosts do not support; each learns at its start what all have noted before.

        Raises:
          Changed: an example has changed since the run read it first.
          InputError: something else is in the place of a file.
          RunError: the digests cannot be written.
        """
        folders = list(folders)
        for folder in folders:
            self.learn(folder, split)
        paths = tuple(folder / FOLDER / f"{split}-{process}.bin" for folder in folders)
        for path in paths:
            self._write(path)
        self._paths = paths
        self._open()

    # ---- Files

    def _content(self, file: Path) -> np.ndarray | None:
        """The numbers in a file; `None` if it is of another size or of other data."""
        if not file.is_file():
            raise InputError(f"{file} {described(file)}, not a file; move it away")
        if file.stat().st_size != _HEAD + _SIZE * len(self._known):
            return None
        content = file.read_bytes()
        numbers = np.frombuffer(content, "<u8", offset=_HEAD).astype(np.uint64)
        return numbers if content[:_HEAD] == self._head else None

    def _write(self, path: Path) -> None:
        """Write all that is known to a file, atomically; one that was not used is renamed."""
        new, damaged = path.with_suffix(".writing"), path.with_suffix(".damaged")
        try:
            path.parent.mkdir(exist_ok=True)
            if path.exists() and self._content(path) is None:
                os.replace(path, damaged)
                logger.warning("%s is renamed to %s, and begun anew", path, damaged.name)
            with new.open("wb") as file:
                file.write(self._head + self._known.astype("<u8").tobytes())
                file.flush()
                os.fsync(file.fileno())
            os.replace(new, path)
        except OSError as error:
            raise _failed(path, error) from None

    def _open(self) -> None:
        self._close()
        self._files = tuple(os.open(path, os.O_RDWR | os.O_CLOEXEC) for path in self._paths)

    def _close(self) -> None:
        for file in self._files:
            os.close(file)
        self._files = ()

    def _noted(self, index: int) -> int:
        """What another process of this computer has noted since `keep`; 0 if nothing."""
        for path, file in zip(self._paths[:1], self._files, strict=False):
            try:
                number = int.from_bytes(os.pread(file, _SIZE, _HEAD + _SIZE * index), "little")
            except OSError as error:
                raise _failed(path, error) from None
            return number if _is_sound(index, number) else 0
        return 0

    def _note(self, index: int, number: int) -> None:
        for path, file in zip(self._paths, self._files, strict=True):
            try:
                os.pwrite(file, number.to_bytes(_SIZE, "little"), _HEAD + _SIZE * index)
            except OSError as error:
                raise _failed(path, error) from None

    def _changed(self, index: int) -> Changed:
        way = f"; to go on with the new data, move {self._folder} away" if self._folder else ""
        return Changed(
            f"{self._name}, {self.place(index)}: the example or its label has changed since the "
            f"run read it first; put back the old data, or give another --workdir{way}"
        )


def _number(index: int, data: Any, label: int | Sequence[int]) -> int:
    """The number of an example; see the head of this module. Never 0."""
    labels = np.asarray(label, np.int64)
    if not isinstance(data, bytes):
        data = np.ascontiguousarray(data)
    kind = "bytes" if isinstance(data, bytes) else f"{data.dtype.str} {data.shape}"
    digest = hashlib.sha256(f"{kind} {labels.shape}\0".encode() + labels.tobytes())
    digest.update(data)
    return _sealed(index, int.from_bytes(digest.digest()[: _BITS // 8], "little") or 1)


def _sealed(index: Any, number: Any) -> Any:
    """Add 16 bits to a number of 48: a function of the number and its position; also of arrays."""
    mixed = (number + index * _FACTORS[0]) * _FACTORS[1] & _WORD
    return number | mixed >> _BITS << _BITS


def _is_sound(index: Any, number: Any) -> Any:
    return number == _sealed(index, number & (2**_BITS - 1))


def _failed(path: Path, error: OSError) -> RunError:
    return RunError(f"{path} cannot be written: {error.strerror or error}")


def noted(source: Any, identity: dict[str, Any]) -> Any:
    """Return a `source.Source` that notes each example that is read; `identity`: see `Noted`."""
    records = Noted(source.records, source.name, identity, source.max_pixels)
    return dataclasses.replace(source, records=records)


def compare(sources: dict[str, Any], folder: Path) -> None:
    """Compare what all processes of a run have noted, as `Noted.learn` does."""
    for split, source in sources.items():
        if isinstance(source.records, Noted):
            source.records.learn(folder, split)


def keep(sources: dict[str, Any], folders: Iterable[Path], process: int = 0) -> None:
    """Call `Noted.keep` for those of the sources, by the names of their splits, that note."""
    for split, source in sources.items():
        if isinstance(source.records, Noted):
            source.records.keep(folders, split, process)
