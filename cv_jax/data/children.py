"""Processes that load or encode images: their signals, their end, and their shared memory."""

import contextlib
import functools
import multiprocessing
import os
import re
import secrets
import signal
import sys
import threading
import time
from collections.abc import Iterator
from multiprocessing import resource_tracker, shared_memory
from pathlib import Path

_MEMORY = Path("/dev/shm")
# Shared memory, and a semaphore, with the names of `_prefix`.
_NAME = re.compile(r"(?:sem\.)?(cv_jax-\d+-(\d+)-\d+)-.*")
_PARENT = os.getppid()
_POLL_SECONDS = 0.5

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextlib.contextmanager
def starting() -> Iterator[None]:
    """Start processes and their threads in this context: they never receive the signals.

    Ctrl-C and a lost terminal signal all processes at once, but only the main process decides what
    to do. New threads and processes inherit the blocked signals, so there is no moment without.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        _own_memory()
        _start_tracker()
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)  # Python 3.11 unblocks two of them
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_with_the_parent() -> None:
    """End this process when its parent ends, even if the parent is killed.

    A program calls this in the children that import it, before its own imports, which take seconds;
    and each child again when it begins its work.
    """
    parent = multiprocessing.parent_process()  # `None` while a child imports the program

    def wait():
        if parent is not None:
            parent.join()
        while parent is None and os.getppid() == _PARENT:
            time.sleep(_POLL_SECONDS)
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
    if parent is not None:
        _name_memory(parent.pid)


@functools.cache
def _own_memory() -> None:
    """Name the memory of this process and its children, and free that of processes that are gone.

    If all processes of a run are killed, nobody is left to free their memory.
    """
    _name_memory(os.getpid())
    for file in _MEMORY.iterdir() if _MEMORY.is_dir() else ():
        name = _NAME.fullmatch(file.name)
        # Processes of another namespace, such as a container, are not visible from here.
        if name and name[1].split("-")[1] == _namespace() and name[1] != _prefix(int(name[2])):
            with contextlib.suppress(OSError):  # of another user, or freed meanwhile
                file.unlink()


def _name_memory(owner: int) -> None:
    """Name all shared memory that this process makes from now on after a process."""
    prefix = _prefix(owner)
    if prefix is None or not _MEMORY.is_dir():
        return
    shared_memory._make_filename = lambda: f"/{prefix}-{secrets.token_hex(8)}"
    multiprocessing.current_process()._config["semprefix"] = f"/{prefix}"


def _prefix(process: int) -> str | None:
    """Names of a process: its namespace, number and start time; `None` if it is gone."""
    try:
        # The name of the program, in brackets, may contain anything.
        facts = Path(f"/proc/{process}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    if facts[0] in "XZ":  # dead; nobody has asked for its exit code
        return None
    return f"cv_jax-{_namespace()}-{process}-{facts[19]}"


@functools.cache
def _namespace() -> str:
    return str(os.stat("/proc/self/ns/pid").st_ino)


def _start_tracker() -> None:
    """Start the process that frees shared memory after the end of all others, however they end.

    The last batches are in use until the program ends, so the tracker always has something to free.
    It would print a warning about it.
    """
    option = "ignore:resource_tracker:UserWarning"
    sys.warnoptions.append(option)
    try:
        resource_tracker.ensure_running()
    finally:
        sys.warnoptions.remove(option)
