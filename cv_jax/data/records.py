"""Re-encoded datasets: ArrayRecord shards with an index, written by `python -m cv_jax prepare`.

    PATH/index.json                          metadata; shards with counts and SHA-256
    PATH/train.labels.npy                    int32 [N], so opening reads no shard
    PATH/train-00000-of-00042.array_record   one image per record

A record is an encoded image, or raw pixels: `RAW`, height, width and channels as little-endian
uint32, then the bytes of uint8 [H, W, C].
"""

import contextlib
import hashlib
import json
import shlex
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from array_record.python.array_record_data_source import ArrayRecordDataSource

from cv_jax.data import fingerprint, subsets
from cv_jax.data.source import Source
from cv_jax.errors import InputError, one_line, shell_line
from cv_jax.paths import read_json, require_file

RAW = b"\x00raw"
_HEAD = struct.Struct("<4sIII")


def pack(pixels: np.ndarray) -> bytes:
    """Return the record of raw pixels, uint8 [H, W, C]."""
    return _HEAD.pack(RAW, *pixels.shape) + pixels.tobytes()


def unpack(record: bytes) -> bytes | np.ndarray:
    """Return the raw pixels of a record, or the record itself if it is an encoded image."""
    if record[:4] != RAW:
        return record
    shape = _HEAD.unpack_from(record)[1:]
    return np.frombuffer(record, np.uint8, offset=_HEAD.size).reshape(shape)


class FileRecords:
    """The records of one split."""

    def __init__(self, files: list[str], counts: list[int], labels: np.ndarray):
        self.files, self.counts, self._labels = files, counts, labels
        shards = [_Shard(f, 0, n, n) for f, n in zip(files, counts, strict=True) if n]
        self.examples = ArrayRecordDataSource(shards)

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> tuple[bytes | np.ndarray, int]:
        return unpack(self.examples[index]), int(self._labels[index])

    def place(self, index: int) -> str:
        for file, count in zip(self.files, self.counts, strict=True):
            if index < count:
                return f"record {index} of {file}"
            index -= count
        raise IndexError(index)

    def labels(self, progress: Callable) -> np.ndarray:
        return self._labels


class _Shard(NamedTuple):
    """A read instruction for ArrayRecord; with the counts given, it opens no file to count."""

    filename: str
    skip: int
    take: int
    examples_in_shard: int


def read_index(path: Path) -> dict[str, Any]:
    """Read the index of a folder of records.

    Raises:
      InputError: the index is missing, unreadable or unfinished.
    """
    try:
        if not (path / "index.json").is_file():
            raise FileNotFoundError
        index = read_json(path / "index.json")
        _check_index(index)
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(
            f"{path} has no index.json; create it with: python -m cv_jax prepare SOURCE --to {path}"
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"{type(error).__name__}: {one_line(error)}"
        raise InputError(
            f"{path}/index.json is damaged ({reason}); prepare the data again"
        ) from None
    if not index.get("finished"):
        raise InputError(f"{path} is incomplete; resume with: {_resume(index, path)}")
    return index


def _check_index(index: dict[str, Any]) -> None:
    """Raise an error if an index lacks a value, or one is not of its type."""
    if not index.get("finished"):
        return
    sizes = [shard["count"] for shards in index["splits"].values() for shard in shards]
    names = [*_digests(index), *(index["classes"] or ())]
    numbers = [*sizes, index["num_classes"], index["channels"]]
    if not all(isinstance(n, int) and 0 <= n < 2**40 for n in numbers):
        raise ValueError("a count is not a number")
    if not index["splits"].keys() <= index["labels"].keys():
        raise ValueError("a split has no labels")
    if not isinstance(index["classes"], list | None) or not all(isinstance(n, str) for n in names):
        raise ValueError("a name is not a text")
    if any(Path(name).name != name for name in _digests(index)):
        raise ValueError("a shard is in another folder")


def _resume(index: dict[str, Any], path: Path) -> str:
    """Return the command that the index records, quoted for a shell: others may have written it."""
    command = str(index.get("command", ""))
    words = command.split()
    with contextlib.suppress(ValueError):
        words = shlex.split(command)
    if words[:4] != ["python", "-m", "cv_jax", "prepare"]:
        words = ["python", "-m", "cv_jax", "prepare", "SOURCE", "--to", str(path)]
    return shell_line(words)


def open_records(name: str, path: Path, split: str) -> Source:
    """Open a split, or a part of one, of a re-encoded dataset; the order of the data is kept.

    Raises:
      InputError: the records are unfinished, the split is unknown, or a file is missing or invalid.
    """
    index = read_index(path)
    known = index["splits"]
    sizes = {part: sum(s["count"] for s in shards) for part, shards in known.items()}
    pieces = subsets.slices(name, split, sizes)
    files, counts, labels, chosen = [], [], [], []
    for part, start, stop in pieces:
        shards = known[part]
        missing = [s["file"] for s in shards if not (path / s["file"]).is_file()]
        if missing:
            raise InputError(
                f"{name!r}: {len(missing)} of {len(shards)} files of split {part!r} are missing; "
                f"the first is {path / missing[0]}"
            )
        before = sum(counts)
        files += [str(path / shard["file"]) for shard in shards]
        counts += [shard["count"] for shard in shards]
        labels.append(_labels(path, part, sizes[part], index))
        chosen.append(np.arange(before + start, before + stop))
    records = FileRecords(files, counts, np.concatenate(labels)) if sum(counts) else ()
    order = np.concatenate([*chosen, np.arange(0)])
    if len(order) != len(records):
        records = subsets.Subset(records, order)
    return Source(
        name=name,
        records=records,
        num_classes=index["num_classes"],
        channels=index["channels"],
        fingerprint={
            "name": "records",
            "splits": sizes,
            "checksum": hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest(),
            "labels": hashlib.sha256(
                json.dumps(index["labels"], sort_keys=True).encode()
            ).hexdigest(),
        },
        files=tuple(fingerprint.named(path / name for name in _digests(index))),
        classes=tuple(index["classes"]) if index["classes"] else None,
    )


def damage(path: Path) -> list[str]:
    """Compare all files of a folder of records with the index; return a line per damaged file.

    Every byte is read.
    """
    lines = []
    for name, digest in _digests(read_index(path)).items():
        file = path / name
        if not file.is_file():
            lines.append(f"{file}: missing")
        elif checksum(file) != digest:
            lines.append(f"{file}: SHA-256 differs from the index")
    return lines


def _digests(index: dict[str, Any]) -> dict[str, str]:
    """Return the SHA-256 of every file: name → digest."""
    digests = {f"{part}.labels.npy": digest for part, digest in index["labels"].items()}
    for shards in index["splits"].values():
        digests |= {shard["file"]: shard["sha256"] for shard in shards}
    return digests


def checksum(file: Path) -> str:
    """SHA-256 of a file; see `fingerprint.sha256`."""
    return fingerprint.sha256(file)


def _labels(path: Path, part: str, count: int, index: dict[str, Any]) -> np.ndarray:
    file, num_classes = path / f"{part}.labels.npy", index["num_classes"]
    try:
        require_file(file)
        labels = np.load(file)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{file}: {' '.join(str(error).split())}") from None
    if len(labels) != count:
        raise InputError(f"{file}: {len(labels)} labels for {count} records")
    if count and not 0 <= labels.min() <= labels.max() < num_classes:
        wrong = np.flatnonzero((labels < 0) | (labels >= num_classes))[0]
        raise InputError(f"{file}: label {labels[wrong]} at {wrong} is not in 0…{num_classes - 1}")
    if checksum(file) != index["labels"].get(part):
        raise InputError(f"{file}: SHA-256 differs from the index")
    return labels
