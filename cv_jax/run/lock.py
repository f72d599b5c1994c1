"""The lock of a run or sweep directory, and the check that the locked directory is still in place.

The lock is on the file `lock`, and it ends with the process, even by a kill. It follows the file;
writes follow the name of the directory. A directory that is moved, replaced or removed while a run
writes is noticed before each write: the run stops.
"""

import contextlib
import fcntl
import os
import random
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple

import jax

from cv_jax.devices import processes
from cv_jax.errors import InputError, RunError

READERS_SECONDS = 10.0  # longest wait for readers, which hold the lock for microseconds


class Claim(NamedTuple):
    """A locked directory.

    Attributes:
      path: the directory.
      flag: command-line flag of the directory, for error messages.
      lock: device and inode of the locked file.
    """

    path: Path
    flag: str
    lock: tuple[int, int]

    def check(self) -> None:
        """Raise a `RunError` unless the locked file is still in the directory of this name."""
        if _identity(self.path / "lock") != self.lock:
            raise RunError(
                f"{self.flag}={self.path} was moved, removed or replaced while it was in use, so "
                "nothing more is written; continue with the place to which it was moved"
            )


@contextlib.contextmanager
def claimed(path: Path, flag: str = "--workdir") -> Iterator[Claim]:
    """Create the directory and hold its lock.

    Args:
      path: the directory.
      flag: command-line flag of the directory, for error messages.

    Raises:
      InputError: another process holds the lock, or `lock` is not a file.
    """
    with _locked(path, flag) as file:
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        yield Claim(path, flag, _identity(file.fileno()))


def _locked(path: Path, flag: str) -> IO[str]:
    """Return the open lock file of the directory, locked."""
    end, lock = time.monotonic() + READERS_SECONDS, path / "lock"
    while True:
        path.mkdir(parents=True, exist_ok=True)
        if os.path.lexists(lock) and not lock.is_file():
            raise InputError(f"{flag}={path}: {lock} is not a file; remove it")
        file = lock.open("a+", errors="replace")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _identity(file.fileno()) == _identity(lock):
                return file
        except OSError:
            if time.monotonic() > end or not _only_readers(file):
                file.seek(0)
                owner = file.read(1000).strip() or "another process"
                file.close()
                raise InputError(f"{flag}={path} is in use by {owner}") from None
        file.close()
        time.sleep(random.uniform(0, 0.01))


def _only_readers(file: IO[str]) -> bool:
    """Whether nobody holds the lock now, except readers: see `in_use`."""
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _identity(file: Path | int) -> tuple[int, int] | None:
    try:
        found = os.stat(file)
    except OSError:
        return None
    return found.st_dev, found.st_ino


@contextlib.contextmanager
def shared(path: Path) -> Iterator[Claim]:
    """Hold the lock in process 0, and check that all processes see the same directory.

    Raises:
      InputError: another run holds the lock, or the processes have different directories.
    """
    lock, main = path / "lock", processes.is_main()
    with claimed(path) if main else contextlib.nullcontext() as claim:
        text = processes.decided(lock.read_text)
        end = time.monotonic() + 20  # delay of a network file system
        while not (lock.is_file() and lock.read_text() == text):
            if time.monotonic() > end:
                raise InputError(
                    f"--workdir={path} of process {jax.process_index()} is not the directory of "
                    "process 0; give all processes the same shared directory"
                )
            time.sleep(0.1)
        yield claim or Claim(path, "--workdir", _identity(lock))


def in_use(path: Path) -> bool:
    """Whether a process holds the lock of the directory.

    The lock is tried, so for microseconds this process shares it; a start waits for that.
    """
    try:
        if not (path / "lock").is_file():  # the trial itself reports another kind
            return False
        with (path / "lock").open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False
