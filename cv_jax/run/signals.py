"""SIGTERM and Ctrl-C: ask a training loop to save and stop."""

import contextlib
import os
import signal
import sys
from collections.abc import Iterator

import psutil


class Stop:
    """The signal that asked the loop to stop; 0 before any signal.

    Attributes:
      signal: number of the signal.
    """

    signal = 0


@contextlib.contextmanager
def caught() -> Iterator[Stop]:
    """Record SIGTERM and SIGINT instead of ending the process.

    The loop finishes its step, saves and stops. A second SIGINT kills the process and its children
    at once.
    """
    stop = Stop()

    def handle(number, frame):
        if number == signal.SIGINT and stop.signal:
            for child in psutil.Process().children(recursive=True):
                child.kill()
            os._exit(128 + number)
        stop.signal = number
        text = "finishing this step and saving; Ctrl-C again ends at once\n"
        os.write(sys.stderr.fileno(), text.encode())

    before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
