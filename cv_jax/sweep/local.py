"""Executor that runs trials on the slots of this machine, each in its own process.

A trial that ends with a nonzero exit code is started again, except after codes 2 and 3, until it
has failed `TRIES` times in a row without progress. Then it is reported, and the others continue.
A trial whose run directory is locked by another process, such as an orphan of a killed sweep, waits
for the lock.

Each process that ended is one line of `trials.jsonl`: trial, slot, start (seconds since 1970),
seconds, exit code (negative for a signal) and the updates of the run by then.
"""

import collections
import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from cv_jax import signals
from cv_jax.errors import ExitCode
from cv_jax.run import json_files, lock
from cv_jax.sweep import process_entry
from cv_jax.sweep.display import Board
from cv_jax.sweep.folder import Trial, progress, prune, tail
from cv_jax.sweep.slots import Slot

DONE, FAILED, STOPPED, PRUNED = "done", "failed", "stopped", "pruned"
TRIES = 3
FINAL_CODES = (ExitCode.MISTAKE, ExitCode.NOT_FINITE)  # another start would give the same error
POLL_SECONDS = 0.02
LOOK_SECONDS = 1.0  # between two reads of the trials' files and of locks
LOG_LINES = 12


class Outcome(NamedTuple):
    """End of a trial.

    Attributes:
      trial: the trial.
      state: DONE, FAILED, STOPPED (by a signal to the sweep) or PRUNED.
      code: exit code of its last process; `None` if no process was started.
      seconds: total time of its processes in this sweep.
      log: last lines of the output of a failed trial.
    """

    trial: Trial
    state: str
    code: int | None = None
    seconds: float = 0.0
    log: tuple[str, ...] = ()


class Running(NamedTuple):
    """Process of a trial.

    Attributes:
      trial: the trial.
      slot: its slot.
      process: the process.
      started: `time.time()` at the start.
      step: updates of the run before the start.
      log_start: position in the log at which the output begins.
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
    board: Board,
    prune: Callable[[Trial], dict | None] = lambda trial: None,
    guard: Callable[[], None] = lambda: None,
) -> list[Outcome]:
    """Train all trials.

    A signal lets the running trials save and stop; other trials have no outcome then. Ctrl-C after
    another signal kills them and ends this process with code 130.

    Args:
      trials: the trials; the next trial is drawn when a slot is free.
      slots: the slots.
      folder: the sweep directory.
      board: the display.
      prune: called regularly with each running trial; returns the reason to stop it for good,
        which is written to its `pruned.json`, or `None`.
      guard: raises if the folder is no longer that of this sweep; then all trials are killed.

    Returns:
      The outcomes in the order of the ends.
    """
    with signals.caught("") as stop:
        scheduler = _Scheduler(trials, slots, folder, board, prune, stop, guard)
        try:
            return scheduler.run()
        finally:
            scheduler.close()


class _Scheduler:
    """Queues and processes of a running sweep; see `run`."""

    def __init__(self, trials, slots, folder, board, prune, stop: signals.Stop, guard):
        self._guard = guard
        self._trials, self._folder, self._board = trials, folder, board
        self._prune, self._stop, self._stopping = prune, stop, False
        self._free: list[Slot] = list(slots)
        self._running: list[Running] = []
        self._again: collections.deque[Trial] = collections.deque()  # to be started again
        self._held: list[Trial] = []  # locked by other processes
        self._failures: collections.Counter[str] = collections.Counter()
        self._seconds: collections.Counter[str] = collections.Counter()
        self._outcomes: list[Outcome] = []
        self._looked = time.monotonic()

    def run(self) -> list[Outcome]:
        """Return the outcomes when no trial is left, or when all have stopped after a signal."""
        while True:
            for past in [one for one in self._running if one.process.poll() is not None]:
                _kill(past)  # loader processes that remain and keep the lock
                self._running.remove(past)
                self._free.append(past.slot)
                self._settle(past)
            while self._free and not self._stop.signal and (trial := self._next_trial()):
                self._guard()
                slot = self._free.pop(0)
                self._running.append(_start(trial, slot))
                self._board.started(trial, slot)
            if not self._running and (self._stop.signal or not self._held):
                return self._outcomes
            if self._stop.signal and not self._stopping:
                self._stopping = True
                self._board.line(f"stopping {len(self._running)} trials; Ctrl-C again kills them")
                for one in self._running:
                    one.process.terminate()
            if time.monotonic() - self._looked >= LOOK_SECONDS:
                self._looked = time.monotonic()
                self._look()
            time.sleep(POLL_SECONDS)

    def close(self) -> None:
        """Kill the trials that still run after an error."""
        for one in self._running:
            _kill(one)
        self._board.close()

    def _next_trial(self) -> Trial | None:
        """Return the next trial to start, and record the outcomes of trials that have ended."""
        while trial := next(self._trials, None) or (self._again.popleft() if self._again else None):
            if trial.finished():
                self._end(trial, DONE)
            elif trial.pruned():
                self._end(trial, PRUNED)
            elif lock.in_use(trial.workdir):
                self._board.line(f"{trial.name}: waiting for another process that trains it")
                self._held.append(trial)
            else:
                return trial
        return None

    def _settle(self, past: Running) -> None:
        """Record the end of a process, and end its trial or queue it again."""
        trial, code, step = past.trial, past.process.returncode, progress(past.trial.workdir)
        self._guard()
        _record(self._folder, past, step)
        self._seconds[trial.name] += time.time() - past.started
        # Failures with progress do not add up: such a trial will finish.
        self._failures[trial.name] = 1 if step > past.step else self._failures[trial.name] + 1
        if trial.finished():
            self._end(trial, DONE, code)
        elif trial.pruned():
            self._end(trial, PRUNED, code)
        elif self._stop.signal:
            self._end(trial, STOPPED, code)
        elif lock.in_use(trial.workdir):  # another process has taken the lock
            self._again.append(trial)
        elif code in FINAL_CODES or self._failures[trial.name] >= TRIES:
            self._end(trial, FAILED, code, _last_lines(trial.log, past.log_start))
        else:
            self._board.line(f"{trial.name}: {exit_text(code)} at step {step}, will start again")
            self._again.append(trial)

    def _end(
        self, trial: Trial, state: str, code: int | None = None, log: tuple[str, ...] = ()
    ) -> None:
        self._outcomes.append(Outcome(trial, state, code, self._seconds[trial.name], log))
        self._board.ended(self._outcomes[-1])

    def _look(self) -> None:
        """Queue trials whose locks are free, prune running trials, and update the display."""
        released = [trial for trial in self._held if not lock.in_use(trial.workdir)]
        self._held = [trial for trial in self._held if trial not in released]
        self._again.extend(released)
        for one in self._running:
            reason = None if one.trial.pruned() else self._prune(one.trial)
            if reason is not None:
                prune(one.trial.workdir, reason)
                one.process.terminate()
        self._board.look(self._running, len(self._again) + len(self._held))


def exit_text(code: int) -> str:
    """Describe an exit code."""
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def _start(trial: Trial, slot: Slot) -> Running:
    step = progress(trial.workdir)
    with trial.open_log() as log:
        start = log.tell()
        process = subprocess.Popen(
            process_entry.wrapped(trial.command, slot.cores),
            env={**os.environ, **slot.environment},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            process_group=0,  # Ctrl-C reaches only the sweep, which stops its trials
        )
    return Running(trial, slot, process, time.time(), step, start)


def _kill(one: Running) -> None:
    """Kill a trial and its loader processes."""
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


def _last_lines(log: Path, start: int) -> tuple[str, ...]:
    text = tail(log, start).decode(errors="replace")
    return tuple(line for line in text.splitlines() if line.strip())[-LOG_LINES:]
