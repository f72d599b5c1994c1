"""Task of a Slurm job: run the command of one trial, once on each node.

Slurm announces the end of a job by a signal: SIGTERM for preemption, requeueing and cancellation,
and the signal of `sbatch --signal` before the time limit. The command receives each of these as
SIGTERM, saves and ends with 75. Then the job is requeued, unless Slurm ends or requeues it itself,
and continues the run. A job whose command failed is requeued under the rule of `local`.

Process 0 of a job appends a line to `SWEEP_DIR/slurm/<trial>.jsonl` at each end: the keys of
`trials.jsonl`, and `node`; `before`, the updates at the start; and `signal`, if one was received.
"""

import contextlib
import itertools
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

from cv_jax.errors import one_line
from cv_jax.run import checkpoint_files, json_files
from cv_jax.sweep import process_entry
from cv_jax.sweep.folder import Trial, progress
from cv_jax.sweep.local import FINAL_CODES, TRIES, exit_text

STOPS = 10  # in a row without progress: the time limit may be too short for one step
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


class Task(NamedTuple):
    """A trial as the function of a Slurm job.

    Attributes:
      trial: the trial.
      record: file with one line for each end of its jobs.
    """

    trial: Trial
    record: Path

    def __call__(self) -> None:
        """Run the trial. Unless it has finished, requeue the job if due, and exit with its code."""
        main = os.environ.get("SLURM_PROCID", "0") == "0"
        started, before = time.time(), reached(self.trial.workdir)
        code, received = _run(self.trial, main)
        if not main or code == 0:
            return  # process 0 decides about a requeue
        line = {
            "trial": self.trial.name,
            "slot": f"job {_job()}",
            "node": socket.gethostname(),
            "started": round(started, 3),
            "seconds": round(time.time() - started, 3),
            "code": code,
            "signal": received.name if received else None,
            "before": before,
            "step": reached(self.trial.workdir),
        }
        json_files.append_line(self.record, line)
        own = [past for past in json_files.read_lines(self.record) if past["slot"] == line["slot"]]
        if starts_again(own):
            _requeue()
        sys.exit(code if code > 0 else 128 - code)


def reached(path: Path) -> int:
    """Return the last step of a run, from its checkpoints and from `progress`."""
    return max(progress(path), *checkpoint_files.finished(path / "checkpoints"), 0)


def starts_again(ends: list[dict[str, Any]]) -> bool:
    """Whether to start a job again.

    Args:
      ends: ends of the job so far, in order, each with `code`, `signal`, `before` and `step`.
    """
    if ends[-1]["code"] in FINAL_CODES:
        return False
    futile = list(itertools.takewhile(lambda end: end["step"] <= end["before"], ends[::-1]))
    failures = [end for end in futile if not end["signal"]]
    return len(failures) < TRIES and len(futile) < STOPS


def _run(trial: Trial, main: bool) -> tuple[int, signal.Signals | None]:
    """Run the command; return its exit code, and the first signal that stopped it, if any."""
    received, process = [], None

    def forward(number, frame):
        received.append(signal.Signals(number))
        if process is not None:
            process.terminate()

    for number in SIGNALS:
        signal.signal(number, forward)
    # The output of the other processes goes to Slurm's own log.
    with trial.open_log() if main else contextlib.nullcontext() as log:
        process = subprocess.Popen(
            process_entry.wrapped(trial.command),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
        if received:  # before the process was known to `forward`
            process.terminate()
        return process.wait(), received[0] if received else None


def _job() -> str:
    """Id of this job, or of this task of an array; one task has the job id of the whole array."""
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        return f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    return os.environ["SLURM_JOB_ID"]


def _requeue() -> None:
    """Requeue this job, unless Slurm ends or requeues it already."""
    job = _job()
    ask = ["squeue", "--noheader", f"--jobs={job}", "--format=%T"]
    state = subprocess.run(ask, capture_output=True, text=True)
    if state.returncode or state.stdout.strip() != "RUNNING":
        reason = one_line(state.stdout.strip() or state.stderr)
        print(f"not requeued: {reason}", file=sys.stderr)
        return
    answer = subprocess.run(["scontrol", "requeue", job])
    text = "requeued" if answer.returncode == 0 else f"scontrol: {exit_text(answer.returncode)}"
    print(text, file=sys.stderr)
