"""SIGINT (Ctrl-C), SIGTERM and SIGHUP (a lost terminal): end at once, or save and stop.

A thread handles the signals. A Python handler would run in the main thread and between two
bytecodes: not before an import or a compilation ends. Its exception could also be lost in a
callback.
"""

import contextlib
import os
import select
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import NoReturn

NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_wakeup: int | None = None  # Python's C handler writes the numbers of signals here
_act: Callable[[int], None]  # called in the thread with the number of a signal


class Stop:
    """The signal that asked a loop to stop.

    Attributes:
      signal: number of the signal; 0 before any signal.
      recording: whether a signal is recorded here; until then it ends the process at once.
    """

    def __init__(self, recording: bool):
        self.signal, self.recording = 0, recording


def block() -> None:
    """Hold the signals back until `watch`, also in a program that replaces this one."""
    signal.pthread_sigmask(signal.SIG_BLOCK, NUMBERS)


def watch() -> int:
    """Handle the signals in the thread; return the file descriptor that Python notified before.

    Each signal ends this process and its children at once, with one line, until `caught`. SIGHUP
    stays ignored if it is ignored, as under nohup.
    """
    global _wakeup
    if _wakeup is None:
        _open_standard_files()
        reader, _wakeup = os.pipe()
        os.set_blocking(_wakeup, False)
        threading.Thread(target=_dispatch, args=(reader,), daemon=True).start()
    before = signal.set_wakeup_fd(_wakeup, warn_on_full_buffer=False)
    for number in NUMBERS:
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _handled_in_the_thread)
            signal.siginterrupt(number, False)  # no errors in system calls of the other threads
    signal.pthread_sigmask(signal.SIG_UNBLOCK, NUMBERS)
    return before


def _open_standard_files() -> None:
    """Open /dev/null as standard input, output and error where the caller has closed them.

    Otherwise the next file would get the number, and with it the output of libraries.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number


def _handled_in_the_thread(number, frame) -> None:
    pass


def _dispatch(reader: int) -> None:
    while True:
        for number in os.read(reader, 64):
            if signal.getsignal(number) is _handled_in_the_thread:
                _act(number)


def _end(number: int) -> NoReturn:
    tell(text(number))
    end_at_once(128 + number)


_act = _end


def act_by(act: Callable[[int], None]) -> Callable[[int], None]:
    """Call `act` with the number of each signal from now on; return the function before it."""
    global _act
    before, _act = _act, act
    return before


def text(number: int) -> str:
    """Describe the end of a process that a signal interrupts."""
    return f"interrupted by {signal.Signals(number).name}"


def tell(line: str) -> None:
    """Write a line to standard error if it takes one now; the main thread may hold `sys.stderr`."""
    with contextlib.suppress(OSError, ValueError):
        if select.select([], [2], [], 0.2)[1]:
            os.write(2, f"{line}\n".encode())


def end_at_once(code: int) -> NoReturn:
    """End this process and its children at once, without cleanup.

    Python's resource trackers end after all others, because they free the shared memory.
    """
    import psutil  # here, because this module is the first that a command imports

    children = []
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if "resource_tracker" not in " ".join(child.cmdline()):
                children.append(child.pid)
    sys.setswitchinterval(60)  # no other thread runs from here on and reports the end of a child
    for child in children:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
    os._exit(code)


@contextlib.contextmanager
def caught(
    message: str = "finishing this step and saving; Ctrl-C again ends at once",
    killed: str = "killed; the same command continues",
    recording: bool = True,
) -> Iterator[Stop]:
    """Record signals instead of ending the process.

    Args:
      message: printed at the first signal; may be empty.
      killed: printed when SIGINT follows another signal, which ends this process and its children.
      recording: whether to record from now on; otherwise from the time when `Stop.recording` is
        set.
    """
    stop = Stop(recording)

    def act(number):
        if not stop.recording:
            before(number)
        if number == signal.SIGINT and stop.signal:
            tell(killed)
            end_at_once(128 + signal.SIGINT)
        stop.signal = number
        if message:
            tell(message)

    handlers = {number: signal.getsignal(number) for number in NUMBERS}
    before = act_by(act)
    wakeup = watch()
    try:
        yield stop
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False)
        act_by(before)
