"""Identity of the files of a dataset, beyond the metadata that identifies a run's data.

    times      names, sizes and modification times of all files
    contents   names and SHA-256 of all files, of small datasets or on request; else `None`

Equal contents are equal data, whatever the times: a dataset may be copied. Without contents, the
times decide: copy with them (`cp -a`, `rsync -a`). Then each example is compared when it is read
again; see `digests`.
"""

import functools
import hashlib
import os
import stat
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

# All contents of a dataset up to this size are read at each start.
MAX_BYTES = 2**30

# Not in fingerprints of earlier versions.
LATER = ("times", "contents", "labels")


def of_files(
    files: Sequence[tuple[str, Path]],
    full: bool = False,
    progress: Callable[[Sequence], Iterable] = lambda loop: loop,
) -> dict[str, str | None]:
    """Return the `times` and `contents` of files; see this module.

    An unreadable file is part of it as such: it is reported when an example is read from it.

    Args:
      files: name, which does not depend on the place of the dataset, and path.
      full: read the contents of large datasets, too.
      progress: wraps the loop over the files that are read.
    """
    states = [_state(path) for _, path in files]
    times, total = hashlib.sha256(), 0
    for (name, _), state in zip(files, states, strict=True):
        times.update(_line(name, *state[:2]))
        total += state[0]
    contents = None
    if full or total <= MAX_BYTES:
        digest = hashlib.sha256()
        for (name, path), state in progress(list(zip(files, states, strict=True))):
            digest.update(_line(name, _sha256(str(path), *state)))
        contents = digest.hexdigest()
    return {"times": times.hexdigest(), "contents": contents}


def differing(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Return the keys of the new fingerprint in which it differs from a recorded one.

    What an earlier version did not record is not compared.
    """
    keys = [k for k in now if now[k] != before.get(k) and (k in before or k not in LATER)]
    if before.get("contents") and now.get("contents"):
        return [key for key in keys if key != "times"]
    return [key for key in keys if key != "contents"]


def of_every_host(values: dict[str, Any]) -> dict[str, Any]:
    """Return a fingerprint without what differs between copies of the same data."""
    return {key: value for key, value in values.items() if key != "times"}


def _state(path: Path) -> tuple[int, int, int, int]:
    """Size, modification time, inode and time of the last change; zeros if there is no file.

    The last one tells that a file has other content, whatever its modification time says.
    """
    try:
        status = path.stat()
    except OSError:
        return 0, 0, 0, 0
    if not stat.S_ISREG(status.st_mode):
        return 0, 0, 0, 0
    return status.st_size, status.st_mtime_ns, status.st_ino, status.st_ctime_ns


@functools.lru_cache(maxsize=2**20)
def _sha256(path: str, size: int, time: int, inode: int, changed: int) -> str:
    """SHA-256 of a file that is in this state; a file is read once in a process."""
    if (size, time, inode, changed) == (0, 0, 0, 0):
        return "unreadable"
    try:
        return sha256(Path(path))
    except OSError:
        return "unreadable"


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file; another text if it has holes of more than `MAX_BYTES`.

    Reading terabytes of zeros, which take no place on the disk, would not end.
    """
    with path.open("rb") as file:
        status = os.fstat(file.fileno())
        if status.st_size - 512 * status.st_blocks > MAX_BYTES:
            return f"{status.st_size} bytes, most of them holes"
        return hashlib.file_digest(file, "sha256").hexdigest()


def _line(name: str, *values: int | str) -> bytes:
    return "\0".join([name, *map(str, values)]).encode(errors="surrogateescape") + b"\n"


def named(paths: Iterable[Path]) -> list[tuple[str, Path]]:
    """Return the files of a prepared dataset with their names, in order."""
    return [(os.path.basename(path), Path(path)) for path in paths]
