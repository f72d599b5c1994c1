"""Runs trials on the slots of this machine, each in a process of its own.

A trial that ends with another exit code than 0 is started again, unless the input or the training
itself was at fault (codes 2 and 3), until it has failed `TRIES` times without getting further.
Then it is reported, and the others go on. A run directory that another process holds, such as a
trial that outlived a sweep that was killed, is waited for.

Each process that ended is one line of `trials.jsonl`: trial, slot, start (seconds since 1970),
seconds, exit code (negative: the signal) and the updates that the run has made by then.
"""

import collections
import contextlib
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from cv_jax.run import json_files, workdir
from cv_jax.sweep import process_entry
from cv_jax.sweep.folder import Trial, progress
from cv_jax.sweep.slots import Slot

DONE, FAILED, STOPPED, PRUNED = "done", "failed", "stopped", "pruned"
TRIES = 3
FINAL_CODES = (2, 3)  # a mistake in the input; the loss is not finite
POLL_SECONDS = 0.02
LOOK_SECONDS = 1.0  # at files that trials write, and at locks that others hold
LOG_LINES = 12


class Outcome(NamedTuple):
    """How a trial ended.

    Attributes:
      trial: which.
      state: DONE, FAILED, STOPPED (by a signal to the sweep) or PRUNED.
      code: exit code of its last process; none if there was no need for one.
      seconds: its processes took in this sweep.
      log: end of what the last one printed, if it failed.
    """

    trial: Trial
    state: str
    code: int | None = None
    seconds: float = 0.0
    log: tuple[str, ...] = ()


class Running(NamedTuple):
    """A process of a trial.

    Attributes:
      trial: which.
      slot: where.
      process: of it.
      started: `time.time()`.
      step: updates the run had made by then.
      log_start: where in the log its output begins.
    """

    trial: Trial
    slot: Slot
    process: subprocess.Popen
    started: float
    step: int
    log_start: int


def run(
    trials: Iterator[Trial],
    slots: list[Slot],
    folder: Path,
    board,
    ended: Callable[[Outcome], None] = lambda outcome: None,
    hopeless: Callable[[Trial], dict | None] = lambda trial: None,
) -> list[Outcome]:
    """Trains all trials to their ends, as far as that is possible.

    Args:
      trials: asked for the next one only when a slot is free.
      slots: where they run.
      folder: of the sweep, where `trials.jsonl` is written.
      board: shows what happens; see `board.Board`.
      ended: called with each outcome.
      hopeless: asked from time to time why a running trial shall be stopped for good, if it shall;
        its `pruned.json` keeps the answer.

    Returns:
      The outcomes in the order in which they came. SIGTERM and Ctrl-C let all trials save and stop;
      those are then among them, and trials that were not begun are not. A second Ctrl-C kills them.
    """
    free = list(slots)
    running: list[Running] = []
    again: collections.deque[Trial] = collections.deque()  # to be started once more
    held: list[Trial] = []  # by other processes
    failures: collections.Counter[str] = collections.Counter()
    seconds: collections.Counter[str] = collections.Counter()
    outcomes: list[Outcome] = []
    told_to_stop = False
    looked = time.monotonic()

    def end(trial: Trial, state: str, code: int | None = None, log: tuple[str, ...] = ()):
        outcomes.append(Outcome(trial, state, code, seconds[trial.name], log))
        ended(outcomes[-1])
        board.ended(outcomes[-1])

    def next_trial() -> Trial | None:
        """One that can be started; those on the way that are finished end here."""
        while trial := next(trials, None) or (again.popleft() if again else None):
            if trial.finished():
                end(trial, DONE)
            elif trial.pruned():
                end(trial, PRUNED)
            elif workdir.in_use(trial.workdir):
                board.line(f"{trial.name}: another process is training it; waiting for that")
                held.append(trial)
            else:
                return trial
        return None

    def settle(past: Running):
        """What follows from the end of a process."""
        trial, code, step = past.trial, past.process.returncode, progress(past.trial.workdir)
        _record(folder, past, step)
        seconds[trial.name] += time.time() - past.started
        # Whoever gets further may fail as often as it likes: it will come to an end.
        failures[trial.name] = 1 if step > past.step else failures[trial.name] + 1
        if trial.finished():
            end(trial, DONE, code)
        elif trial.pruned():
            end(trial, PRUNED, code)
        elif stop.signal:
            end(trial, STOPPED, code)
        elif workdir.in_use(trial.workdir):  # somebody else came between
            again.append(trial)
        elif code in FINAL_CODES or failures[trial.name] >= TRIES:
            end(trial, FAILED, code, _log_end(trial.log, past.log_start))
        else:
            board.line(f"{trial.name}: {said(code)} at step {step}, will be started again")
            again.append(trial)

    with _signals_caught() as stop:
        try:
            while True:
                for past in [one for one in running if one.process.poll() is not None]:
                    _kill(past)  # loader processes that it may have left, with its lock
                    running.remove(past)
                    free.append(past.slot)
                    settle(past)
                while free and not stop.signal and (trial := next_trial()):
                    slot = free.pop(0)
                    running.append(_start(trial, slot))
                    board.started(trial, slot)
                if not running and (stop.signal or not held):
                    return outcomes
                if stop.signal and not told_to_stop:
                    told_to_stop = True
                    board.line(f"stopping {len(running)} trials; Ctrl-C again kills them")
                    for one in running:
                        one.process.terminate()
                if time.monotonic() - looked >= LOOK_SECONDS:
                    looked = time.monotonic()
                    released = [trial for trial in held if not workdir.in_use(trial.workdir)]
                    held = [trial for trial in held if trial not in released]
                    again.extend(released)
                    for one in running:
                        reason = None if one.trial.pruned() else hopeless(one.trial)
                        if reason is not None:
                            json_files.write_json(one.trial.workdir / "pruned.json", reason)
                            one.process.terminate()
                    board.look(running, len(again) + len(held))
                time.sleep(POLL_SECONDS)
        finally:
            for one in running:  # a second Ctrl-C, or something went wrong here
                _kill(one)
            board.close()


def said(code: int) -> str:
    """An exit code in words."""
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    return f"exit code {code}"


def _start(trial: Trial, slot: Slot) -> Running:
    step = progress(trial.workdir)
    cores = ",".join(map(str, slot.cores))
    bootstrap = [sys.executable, "-I", "-S", process_entry.__file__, str(os.getpid()), cores]
    with trial.log.open("ab") as log:
        log.write(f"$ {shlex.join(trial.command)}\n".encode())
        log.flush()
        start = log.tell()
        process = subprocess.Popen(
            [*bootstrap, *trial.command],
            env={**os.environ, **slot.environment},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            process_group=0,  # Ctrl-C is for the sweep, which then tells its trials
        )
    return Running(trial, slot, process, time.time(), step, start)


def _kill(one: Running) -> None:
    """The trial and its loader processes."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(one.process.pid, signal.SIGKILL)
    one.process.wait()


def _record(folder: Path, past: Running, step: int) -> None:
    line = {
        "trial": past.trial.name,
        "slot": past.slot.name,
        "started": round(past.started, 3),
        "seconds": round(time.time() - past.started, 3),
        "code": past.process.returncode,
        "step": step,
    }
    json_files.append_line(folder / "trials.jsonl", line)


def _log_end(log: Path, start: int) -> tuple[str, ...]:
    with log.open("rb") as file:
        file.seek(max(start, file.seek(0, os.SEEK_END) - 65536))
        text = file.read().decode(errors="replace")
    return tuple(line for line in text.splitlines() if line.strip())[-LOG_LINES:]


class _Stop:
    """Which signal asked to stop; 0 if none has."""

    signal = 0


@contextlib.contextmanager
def _signals_caught() -> Iterator[_Stop]:
    """SIGTERM and SIGINT ask to stop; a second SIGINT raises `KeyboardInterrupt`."""
    stop = _Stop()

    def handle(number, frame):
        if number == signal.SIGINT and stop.signal:
            raise KeyboardInterrupt
        stop.signal = number

    before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
