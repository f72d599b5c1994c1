"""SIGTERM and Ctrl-C: ask a loop to finish its step, save and stop."""

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from typing import NoReturn

import psutil


class Stop:
    """The signal that asked the loop to stop.

    Attributes:
      signal: number of the signal; 0 before any signal.
    """

    signal = 0


def kill_all() -> NoReturn:
    """Kill this process and its children at once."""
    for child in psutil.Process().children(recursive=True):
        child.kill()
    os._exit(128 + signal.SIGINT)


@contextlib.contextmanager
def caught(
    message: str = "finishing this step and saving; Ctrl-C again ends at once",
    again: Callable[[], NoReturn] = kill_all,
) -> Iterator[Stop]:
    """Record SIGTERM and SIGINT instead of ending the process.

    Args:
      message: printed when a signal arrives; may be empty.
      again: called when SIGINT arrives after another signal.
    """
    stop = Stop()

    def handle(number, frame):
        if number == signal.SIGINT and stop.signal:
            again()
        stop.signal = number
        if message:
            os.write(sys.stderr.fileno(), f"{message}\n".encode())

    before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
