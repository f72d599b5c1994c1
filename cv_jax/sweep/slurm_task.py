"""What a job of Slurm does: the command of one trial, once on each node.

Slurm warns a job of its end by a signal: SIGTERM when it is preempted, requeued or cancelled, and
before the time limit the one that `sbatch --signal` asks for. The command gets any of them as
SIGTERM, saves and ends with 75. Unless Slurm itself ends or requeues the job, it then goes back
into the queue, and finds its run directory as it left it. So does a job whose command failed, under
the rule of `local`.

Process 0 of a job adds a line to `SWEEP_DIR/slurm/<trial>.jsonl` for each end: the keys of
`trials.jsonl`, and `before`, the updates at the start, and `signal`, if it was told to stop.
"""

import contextlib
import itertools
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

from cv_jax.run import json_files
from cv_jax.sweep import process_entry
from cv_jax.sweep.folder import Trial, progress
from cv_jax.sweep.local import FINAL_CODES, TRIES, said

STOPS = 10  # in a row without getting further: the time limit may be too short for one step
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


class Task(NamedTuple):
    """A trial as Slurm runs it.

    Attributes:
      trial: which.
      record: file of its ends.
    """

    trial: Trial
    record: Path

    def __call__(self) -> None:
        """Returns when the trial is trained to its end. Otherwise ends this process with an exit
        code, when all is done that the job needs to be started again, if it shall be."""
        main = os.environ.get("SLURM_PROCID", "0") == "0"
        started, before = time.time(), reached(self.trial.workdir)
        code, told = _run(self.trial, main)
        if not main or code == 0:
            return  # process 0 decides what follows
        line = {
            "trial": self.trial.name,
            "slot": f"job {_job()}",
            "node": socket.gethostname(),
            "started": round(started, 3),
            "seconds": round(time.time() - started, 3),
            "code": code,
            "signal": told.name if told else None,
            "before": before,
            "step": reached(self.trial.workdir),
        }
        json_files.append_line(self.record, line)
        own = [past for past in json_files.read_lines(self.record) if past["slot"] == line["slot"]]
        if starts_again(own):
            _requeue()
        sys.exit(code if code > 0 else 128 - code)


def reached(path: Path) -> int:
    """Updates that a run has made: those it has saved, too, which `progress` does not know of."""
    saved = [int(p.name) for p in (path / "checkpoints").glob("[0-9]*") if p.name.isdecimal()]
    return max(progress(path), *saved, 0)


def starts_again(ends: list[dict[str, Any]]) -> bool:
    """Whether a job shall be started again.

    Args:
      ends: of its starts so far, in order; each with `code`, `signal`, `before` and `step`.
    """
    if ends[-1]["code"] in FINAL_CODES:
        return False
    futile = list(itertools.takewhile(lambda end: end["step"] <= end["before"], ends[::-1]))
    failures = [end for end in futile if not end["signal"]]
    return len(failures) < TRIES and len(futile) < STOPS


def _run(trial: Trial, main: bool) -> tuple[int, signal.Signals | None]:
    """The exit code of the command, and the signal that asked it to stop, if any."""
    told, process = [], None

    def tell(number, frame):
        told.append(signal.Signals(number))
        if process is not None:
            process.terminate()

    for number in SIGNALS:
        signal.signal(number, tell)
    with contextlib.ExitStack() as stack:
        log = None  # what the other processes say goes where Slurm keeps it
        if main:
            log = stack.enter_context(trial.log.open("ab"))
            log.write(f"$ {shlex.join(trial.command)}\n".encode())
            log.flush()
        process = subprocess.Popen(
            [
                sys.executable,
                "-I",
                "-S",
                process_entry.__file__,
                str(os.getpid()),
                "",
                *trial.command,
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
        if told:  # while the process was being made
            process.terminate()
        return process.wait(), told[0] if told else None


def _job() -> str:
    """This job; of an array this task, since one of them has the number of the whole array, too."""
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        return f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    return os.environ["SLURM_JOB_ID"]


def _requeue() -> None:
    """Puts this job back into the queue, unless Slurm ends or requeues it already."""
    job = _job()
    ask = ["squeue", "--noheader", f"--jobs={job}", "--format=%T"]
    state = subprocess.run(ask, capture_output=True, text=True)
    if state.returncode or state.stdout.strip() != "RUNNING":
        print(f"not requeued: {state.stdout.strip() or state.stderr.strip()}", file=sys.stderr)
        return
    answer = subprocess.run(["scontrol", "requeue", job])
    text = "requeued" if answer.returncode == 0 else f"scontrol: {said(answer.returncode)}"
    print(text, file=sys.stderr)
