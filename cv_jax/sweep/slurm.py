"""Executor that submits trials to Slurm: `launch.py --sweep --sweep_executor=slurm`.

Every trial that is neither finished nor in Slurm's queue becomes a task of a job array, which
submitit passes to `sbatch`; `slurm_task` is the program of a job. The command returns at once. The
same command again prints the progress of all trials, and submits those that ended too early.

    SWEEP_DIR/slurm/<token>.json     names of the trials of one array, in the order of its tasks
    SWEEP_DIR/slurm/<trial>.jsonl    ends of a trial's jobs
    SWEEP_DIR/slurm/                 also the files of submitit and Slurm

Only Slurm's queue determines which trials are queued or running, because file locks may not work
between nodes. The name of an array contains its token, and the token is written before the array is
submitted, so a kill at any time loses no array.
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

from cv_jax.errors import InputError, RunError, one_line, printable, shell_line
from cv_jax.run import json_files
from cv_jax.sweep import folder as folders
from cv_jax.sweep.display import aligned
from cv_jax.sweep.folder import Trial
from cv_jax.sweep.local import exit_text

ROOT = Path(__file__).resolve().parents[2]
SIGNAL_SECONDS = 120  # before the time limit, for a step, an evaluation and a checkpoint


class Option(NamedTuple):
    """A flag `--slurm.NAME`.

    Attributes:
      name: name of the flag.
      kind: `str`, `int` (positive), or `list` for a flag that can be repeated.
      meaning: help text.
      parameter: name of submitit's parameter.
    """

    name: str
    kind: type
    meaning: str
    parameter: str


OPTIONS = (
    Option("partition", str, "partition of the jobs", "partition"),
    Option("account", str, "account of the jobs", "account"),
    Option("qos", str, "quality of service", "qos"),
    Option("constraint", str, "required features of the nodes", "constraint"),
    Option("time", int, "time limit of a job in minutes; default: the partition's", "time"),
    Option("nodes", int, "nodes of a trial; default: 1", "nodes"),
    Option("tasks_per_node", int, "processes on each node; default: 1", "ntasks_per_node"),
    Option("gpus_per_node", int, "GPUs on each node; default: none", "gpus_per_node"),
    Option("cpus_per_task", int, "cores of each process", "cpus_per_task"),
    Option("mem", str, "memory on each node, such as 64GB", "mem"),
    Option("array_parallelism", int, "trials at a time; default: all", "array_parallelism"),
    Option(
        "signal_delay_s",
        int,
        f"seconds before the time limit at which a job saves; default: {SIGNAL_SECONDS}",
        "signal_delay_s",
    ),
    Option("setup", list, "shell command before each start; can be repeated", "setup"),
)


def options(flags: Namespace, folder: Path) -> dict[str, Any]:
    """Return submitit's parameters from the flags that are set.

    Args:
      flags: `slurm.…` for each of `OPTIONS`.
      folder: the sweep directory.

    Raises:
      InputError: a value or the folder is invalid, or `sbatch` or submitit is not installed.
    """
    # The batch script would have a further line, which the shell runs.
    _require_printable("--sweep_dir", str(folder.absolute()))
    _require_printable("--sweep_dir", str(folder.resolve()))
    found = {}
    for option in OPTIONS:
        value = getattr(flags, f"slurm.{option.name}")
        if option.kind is int and value is not None and value < 1:
            raise InputError(f"--slurm.{option.name}={value} must be at least 1")
        for text in value if option.kind is list and value else (value,):
            _require_printable(f"--slurm.{option.name}", str(text))
        if value is not None:
            found[option.parameter] = value
    if shutil.which("sbatch") is None:
        raise InputError("--sweep_executor=slurm: sbatch is not installed on this machine")
    if importlib.util.find_spec("submitit") is None:
        raise InputError("--sweep_executor=slurm: submitit is not installed; pip install submitit")
    return found


def _require_printable(flag: str, text: str) -> None:
    if not text.isprintable():
        raise InputError(f"{flag}={text}: the batch script of Slurm allows printable text only")


def devices(options: dict[str, Any]) -> int:
    """Return the number of devices of a trial: its GPUs, or one device for each process."""
    each = options.get("gpus_per_node", options.get("ntasks_per_node", 1))
    return options.get("nodes", 1) * each


def run(trials: list[Trial], options: dict[str, Any], folder: Path) -> None:
    """Submit every trial that is not finished, queued or running, and print the state of all.

    Args:
      trials: trials of the sweep.
      options: parameters of submitit.
      folder: the sweep directory, locked by this process.

    Raises:
      InputError: Slurm refuses the options.
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
            state = f"submitted, job {submitted[trial.name]}{_last_end(folder, trial)}"
        rows.append((trial.name, f"{folders.progress(trial.workdir)}/{trial.total_steps}", state))
    print("\n".join(aligned(rows)))
    counts = [
        (len(done), "done"),
        (len(active.keys() - done), "queued or running"),
        (len(submitted), "submitted now"),
    ]
    shown = ", ".join(f"{count} {state}" for count, state in counts if count)
    print(printable(f"{shown}; {len(trials)} trials in {folder}"))
    if len(done) < len(trials):
        shown = printable(str(folder))
        command = shell_line(["python", "-m", "cv_jax", "report", str(folder)])
        print(
            f"logs: {shown}/<trial>.log, and of the jobs {shown}/slurm; results so far: {command}; "
            "the same command again prints the progress and submits trials that ended too early"
        )


def queue(folder: Path) -> dict[str, tuple[str, str]]:
    """Return the trials of a sweep in Slurm's queue: name → (job, state).

    Raises:
      RunError: Slurm does not answer.
    """
    arrays = {file.stem: _names(file) for file in (folder / "slurm").glob("*.json")}
    if not arrays:
        return {}
    found = {}
    for line in _squeue().splitlines():
        job, index, state, name = line.split("|", 3)
        trials = arrays.get(name.rpartition("-")[2])
        if trials:
            single = not index.isdecimal()
            trial = trials[0 if single else int(index)]
            found[trial] = (job if single else f"{job}_{index}", state)
    return found


def _names(file: Path) -> list[str]:
    """Return the names of the trials of an array.

    Raises:
      RunError: the file is damaged; without it, trials would be submitted twice.
    """
    try:
        names = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        names = error
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise RunError(f"{file} is damaged; when no job of this sweep is in the queue, remove it")
    return names


def _squeue() -> str:
    command = ["squeue", "--me", "--noheader", "--array", "--format=%F|%K|%T|%j"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        reason = one_line(getattr(error, "stderr", None) or error)
        raise RunError(f"squeue does not answer: {reason}") from None


def submit(trials: list[Trial], options: dict[str, Any], folder: Path) -> dict[str, str]:
    """Submit an array with one job for each trial; return name → job.

    Raises:
      InputError: `sbatch` refuses the options.
    """
    # Without this, submitit reconfigures logging and closes the existing handlers.
    os.environ.setdefault("SUBMITIT_LOG_LEVEL", "NOCONFIG")
    import submitit

    from cv_jax.sweep.slurm_task import Task

    place, token = folder / "slurm", uuid.uuid4().hex[:8]
    place.mkdir(exist_ok=True)
    before = set(place.iterdir())
    setup = f"export PYTHONPATH={shlex.quote(str(ROOT))}${{PYTHONPATH:+:$PYTHONPATH}}"
    # Since Slurm 22.05 the steps of a job do not inherit its number of cores for each process.
    cores = options.get("cpus_per_task")
    step = [] if cores is None else [f"--cpus-per-task={cores}"]
    executor = submitit.SlurmExecutor(place)
    parameters = {
        "time": None,
        "signal_delay_s": SIGNAL_SECONDS,
        "array_parallelism": len(trials),
        **options,
        "setup": [setup, *options.get("setup", ())],
        # Process 0 detects the loss of a process and requeues the job.
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
            if file.suffix in (".json", ".pkl", ".sh"):  # other files belong to running jobs
                file.unlink()
        raise InputError(f"sbatch refuses the jobs: {one_line(error)}") from None
    return {trial.name: job.job_id for trial, job in zip(trials, jobs, strict=True)}


def _last_end(folder: Path, trial: Trial) -> str:
    """Describe the end of a trial's last job, if it had a job."""
    ends = json_files.read_lines(folder / "slurm" / f"{trial.name}.jsonl")
    return f" (the last job ended with {exit_text(ends[-1]['code'])})" if ends else ""
