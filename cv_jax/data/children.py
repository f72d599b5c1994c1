"""Processes that load or encode images: their signals, their end, and their shared memory."""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator
from multiprocessing import resource_tracker

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextlib.contextmanager
def starting() -> Iterator[None]:
    """Start processes and their threads in this context: they never receive the signals.

    Ctrl-C and a lost terminal signal all processes at once, but only the main process decides what
    to do. New threads and processes inherit the blocked signals, so there is no moment without.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        _start_tracker()
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)  # Python 3.11 unblocks two of them
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_with_the_parent() -> None:
    """End this process when its parent ends, even if the parent is killed."""

    def wait():
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


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
