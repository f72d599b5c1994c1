"""Sweeps on a cluster: `launch.py --sweep --sweep_executor=slurm`.

Every trial that is neither finished nor in Slurm's queue becomes a task of an array of jobs, which
submitit hands to `sbatch`; see `task` for what a job does. The command returns at once. Given
again, it tells how far all trials are, and submits those that ended too early.

    SWEEP_DIR/slurm/<token>.json     names of the trials of one array, in the order of its tasks
    SWEEP_DIR/slurm/<trial>.jsonl    ends of a trial's jobs
    SWEEP_DIR/slurm/                 beside that, what submitit and Slurm write about each job

Which trials are queued or running is asked of Slurm alone: arrays bear their token in their name,
and it is written down before they are submitted, so that a command that was killed in between
leaves nothing in doubt. Locks of run directories may not hold between nodes.
"""

import importlib.util
import json
import os
import shlex
import shutil
import subprocess
import uuid
from argparse import Namespace
from pathlib import Path
from typing import Any, NamedTuple

from cv_jax.errors import InputError, RunError
from cv_jax.run import json_files
from cv_jax.sweep import folder as folders
from cv_jax.sweep.folder import Trial
from cv_jax.sweep.local import said

ROOT = Path(__file__).resolve().parents[2]
SIGNAL_SECONDS = 120  # before the time limit: for a step, an evaluation and a checkpoint


class Option(NamedTuple):
    """A flag `--slurm.NAME`.

    Attributes:
      name: of the flag.
      kind: `str`, `int` (positive), or `list` for lines of text, each with a flag of its own.
      meaning: for the reader.
      parameter: of submitit.
    """

    name: str
    kind: type
    meaning: str
    parameter: str


OPTIONS = (
    Option("partition", str, "where to", "partition"),
    Option("account", str, "who pays", "account"),
    Option("qos", str, "quality of service", "qos"),
    Option("constraint", str, "what the nodes must have", "constraint"),
    Option("time", int, "minutes that a job may take; the partition's", "time"),
    Option("nodes", int, "nodes of a trial; 1", "nodes"),
    Option("tasks_per_node", int, "processes on each node; 1", "ntasks_per_node"),
    Option("gpus_per_node", int, "GPUs on each node; none", "gpus_per_node"),
    Option("cpus_per_task", int, "cores of each process", "cpus_per_task"),
    Option("mem", str, "memory on each node, such as 64GB", "mem"),
    Option("array_parallelism", int, "trials at a time; all", "array_parallelism"),
    Option(
        "signal_delay_s",
        int,
        f"seconds before the time limit at which a job saves; {SIGNAL_SECONDS}",
        "signal_delay_s",
    ),
    Option("setup", list, "a line of shell before each start; may come again", "setup"),
)


def options(flags: Namespace) -> dict[str, Any]:
    """Those that were given: submitit's parameters.

    Raises:
      InputError: a value is not allowed, or nothing can be submitted here.
    """
    found = {}
    for option in OPTIONS:
        value = getattr(flags, f"slurm.{option.name}")
        if option.kind is int and value is not None and value < 1:
            raise InputError(f"--slurm.{option.name}={value} must be at least 1")
        if value is not None:
            found[option.parameter] = value
    if shutil.which("sbatch") is None:
        raise InputError("--sweep_executor=slurm: there is no sbatch here")
    if importlib.util.find_spec("submitit") is None:
        raise InputError("--sweep_executor=slurm needs submitit: pip install submitit")
    return found


def devices(options: dict[str, Any]) -> int:
    """Devices of a trial: its GPUs; without any, one for each process."""
    each = options.get("gpus_per_node", options.get("ntasks_per_node", 1))
    return options.get("nodes", 1) * each


def run(trials: list[Trial], options: dict[str, Any], folder: Path) -> None:
    """Submits what is neither finished nor queued nor running, and tells of all.

    Args:
      trials: of the sweep.
      options: see above.
      folder: of the sweep; this process holds it.

    Raises:
      InputError: Slurm refuses these options.
      RunError: Slurm does not answer.
    """
    active = queue(folder)
    done = {trial.name for trial in trials if trial.finished()}
    missing = [trial for trial in trials if trial.name not in done | active.keys()]
    submitted = submit(missing, options, folder) if missing else {}
    rows = []
    for trial in trials:
        if trial.name in done:
            state = "done"
        elif trial.name in active:
            job, state = active[trial.name]
            state = f"{state.lower()}, job {job}"
        else:
            state = f"submitted, job {submitted[trial.name]}{_ended(folder, trial)}"
        rows.append((trial.name, f"{folders.progress(trial.workdir)}/{trial.total_steps}", state))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(map(str.ljust, row, widths)).rstrip())
    counts = [
        (len(done), "done"),
        (len(active.keys() - done), "queued or running"),
        (len(submitted), "submitted now"),
    ]
    told = ", ".join(f"{count} {what}" for count, what in counts if count)
    print(f"{told}; {len(trials)} trials in {folder}")
    if len(done) < len(trials):
        print(
            f"logs: {folder}/<trial>.log, and of the jobs {folder / 'slurm'}; results so far: "
            f"python -m cv_jax report {folder}; the same command again tells how far all are, and "
            "submits what ended too early"
        )


def queue(folder: Path) -> dict[str, tuple[str, str]]:
    """The trials of a sweep that are in Slurm's queue: name → (job, state).

    Raises:
      RunError: Slurm does not answer.
    """
    arrays = {file.stem: json.loads(file.read_text()) for file in (folder / "slurm").glob("*.json")}
    if not arrays:
        return {}
    found = {}
    for line in _squeue().splitlines():
        job, index, state, name = line.split("|", 3)
        trials = arrays.get(name.rpartition("-")[2])
        if trials is not None:
            single = not index.isdecimal()
            trial = trials[0 if single else int(index)]
            found[trial] = (job if single else f"{job}_{index}", state)
    return found


def _squeue() -> str:
    command = ["squeue", "--me", "--noheader", "--array", "--format=%F|%K|%T|%j"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        reason = getattr(error, "stderr", None) or str(error)
        raise RunError(f"squeue does not answer: {' '.join(reason.split())}") from None


def submit(trials: list[Trial], options: dict[str, Any], folder: Path) -> dict[str, str]:
    """Submits an array of jobs, one for each trial: name → job.

    Raises:
      InputError: `sbatch` refuses.
    """
    # Otherwise it sets up logging anew, and closes the handlers of others.
    os.environ.setdefault("SUBMITIT_LOG_LEVEL", "NOCONFIG")
    import submitit

    from cv_jax.sweep.slurm_task import Task

    place, token = folder / "slurm", uuid.uuid4().hex[:8]
    place.mkdir(exist_ok=True)
    before = set(place.iterdir())
    setup = f"export PYTHONPATH={shlex.quote(str(ROOT))}${{PYTHONPATH:+:$PYTHONPATH}}"
    # From 22.05 on a job's steps do not take over how many cores a process has.
    cores = options.get("cpus_per_task")
    step = [] if cores is None else [f"--cpus-per-task={cores}"]
    executor = submitit.SlurmExecutor(place)
    parameters = {
        "time": None,
        "signal_delay_s": SIGNAL_SECONDS,
        "array_parallelism": len(trials),
        **options,
        "setup": [setup, *options.get("setup", ())],
        # A process that is lost is for process 0 to notice, which then requeues the job.
        "srun_args": ["--kill-on-bad-exit=0", *step],
        "job_name": f"{folder.resolve().name}-{token}",
        "additional_parameters": {"requeue": True},
    }
    json_files.write_json(place / f"{token}.json", [trial.name for trial in trials])
    try:
        executor.update_parameters(**parameters)
        jobs = executor.submit_array(
            [Task(trial, place / f"{trial.name}.jsonl") for trial in trials]
        )
    except RuntimeError as error:
        for file in set(place.iterdir()) - before:
            if file.suffix in (".json", ".pkl", ".sh"):  # others are of jobs that run
                file.unlink()
        raise InputError(f"sbatch refuses: {' '.join(str(error).split())}") from None
    return {trial.name: job.job_id for trial, job in zip(trials, jobs, strict=True)}


def _ended(folder: Path, trial: Trial) -> str:
    """How the trial's last job ended, if it had one."""
    ends = json_files.read_lines(folder / "slurm" / f"{trial.name}.jsonl")
    return f" (the last one ended with {said(ends[-1]['code'])})" if ends else ""
