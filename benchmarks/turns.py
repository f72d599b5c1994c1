"""Processes that take turns on one device, each with a limit, for benchmarks with little time.

A driver starts a process for every measurement. The process imports, builds and traces; then
`hold_device` waits until no other measurement has the device. The driver starts the next process at
that moment, so that the device does not wait for imports. On a CPU this overlap would disturb the
measurement: there the next process starts when the last one has ended.

Only the standard library is imported, because processes with another interpreter use this module.
"""

import collections
import contextlib
import dataclasses
import fcntl
import json
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_LOCK = "CV_JAX_BENCHMARK_LOCK"  # variable with the path of the lock; without it there are no turns

# ---- In a measuring process


def hold_device() -> None:
    """Wait for the device, and keep it until this process ends."""
    if _LOCK in os.environ:
        file = os.open(os.environ[_LOCK], os.O_RDWR | os.O_CREAT)  # closed when the process ends
        fcntl.flock(file, fcntl.LOCK_EX)
    print(json.dumps({"holds_device": True}), flush=True)


def report(**row) -> None:
    """Hand a row of results to the driver."""
    print(json.dumps({"row": row}), flush=True)


# ---- In the driver


@dataclasses.dataclass(frozen=True)
class Job:
    """A process to run.

    Attributes:
      name: of the measurement, in every row.
      command: its words.
      seconds: limit of its time on the device.
      facts: entries that are added to every row.
      variables: environment variables beyond those of the driver.
      cores: the CPU cores it may use; `None` for all.
    """

    name: str
    command: tuple[str, ...]
    seconds: float
    facts: dict = dataclasses.field(default_factory=dict)
    variables: dict = dataclasses.field(default_factory=dict)
    cores: tuple[int, ...] | None = None


class Running:
    """A started job. Threads read its output and end it at its limit.

    A job without a device counts its time from the start.
    """

    def __init__(self, job: Job, emit: Callable[[dict], None], deadline: float, waits: bool):
        self.job, self._emit, self._deadline = job, emit, deadline
        self.holds, self.rows, self.started = threading.Event(), [], time.monotonic()
        self.ended, self._killed = threading.Event(), False
        self._until = deadline if waits else min(deadline, self.started + job.seconds)
        place = (lambda: os.sched_setaffinity(0, job.cores)) if job.cores else None
        self._process = subprocess.Popen(
            job.command,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), **job.variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,  # `_end` also ends the processes that the job starts
            preexec_fn=place,
        )
        self._errors = collections.deque(maxlen=50)
        self._threads = [
            threading.Thread(target=self._read_errors),
            threading.Thread(target=self._read),
            threading.Thread(target=self._watch, daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def _read_errors(self):
        self._errors.extend(self._process.stderr)

    def _read(self):
        for line in self._process.stdout:
            try:
                found = json.loads(line)
            except ValueError:
                continue
            if not isinstance(found, dict):
                continue
            if found.get("holds_device"):
                self._until = min(self._deadline, time.monotonic() + self.job.seconds)
                self.holds.set()
            elif "row" in found:
                self.rows.append(found["row"])
                self._emit({"name": self.job.name, **self.job.facts, **found["row"]})
        code = self._process.wait()
        self._threads[0].join()
        if code:
            last = next((line.strip() for line in reversed(self._errors) if line.strip()), "")
            error = "stopped at its limit" if self._killed else last[:400] or f"exit code {code}"
            seconds = round(time.monotonic() - self.started, 1)
            self._emit(
                {"name": self.job.name, **self.job.facts, "error": error, "after_s": seconds}
            )
        self.ended.set()
        self.holds.set()

    def _watch(self):
        while not self.ended.wait(0.1):
            if time.monotonic() > self._until:
                self.kill()

    def kill(self) -> None:
        """End the job with all its processes."""
        self._killed = True
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def wait(self) -> list[dict]:
        """Wait for the end, and return the rows."""
        self._threads[1].join()
        return self.rows


class Turns:
    """Runs jobs one after the other on the device.

    Attributes:
      left: seconds to the end of the time of all jobs.
    """

    def __init__(self, emit: Callable[[dict], None], minutes: float | None, overlap: bool):
        """Start the time.

        Args:
          emit: called with every row, from several threads but by one at a time. `at_s` is the time
            of a row, and `beside` the other jobs that ran then.
          minutes: time for all jobs; `None` for any.
          overlap: whether the next job may start when the last one holds the device.
        """
        seconds = float("inf") if minutes is None else 60 * minutes
        self._began, self._guard = time.monotonic(), threading.Lock()
        self._end = self._began + seconds
        self._emit, self._overlap, self._running = emit, overlap, []
        self._folder = tempfile.TemporaryDirectory()
        self._variables = {_LOCK: f"{self._folder.name}/lock"} if overlap else {}

    @property
    def left(self) -> float:
        return self._end - time.monotonic()

    def start(self, job: Job, waits: bool = False) -> Running:
        """Start a job at once, beside the others.

        Args:
          job: what to run.
          waits: whether the job waits for the device, from which its time counts. Without it,
            `hold_device` does not wait.
        """
        if waits:
            job = dataclasses.replace(job, variables={**self._variables, **job.variables})
        running = None

        def emit(row):
            others = [
                r.job.name for r in self._running if r is not running and not r.ended.is_set()
            ]
            beside = {"beside": others} if others else {}
            with self._guard:
                self._emit({**row, "at_s": round(time.monotonic() - self._began, 1), **beside})

        running = Running(job, emit, self._end, waits)
        self._running.append(running)
        return running

    def take(self, job: Job) -> Running | None:
        """Start a job that calls `hold_device`, and wait until it holds the device or has ended.

        Without overlap this waits for the end. Returns `None` if no time is left.
        """
        if self.left < min(20, job.seconds):
            with self._guard:
                self._emit({"name": job.name, **job.facts, "error": "no time left"})
            return None
        running = self.start(job, waits=True)
        running.holds.wait()
        if not self._overlap:
            running.wait()
        return running

    def finish(self) -> None:
        """Wait for all jobs."""
        for running in self._running:
            running.wait()
        self._folder.cleanup()
