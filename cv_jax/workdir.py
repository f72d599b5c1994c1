"""The run directory: what a run leaves on disk besides checkpoints.

config.json    the resolved config that the run was started with, flat
run.json       a list of starts: time, commit, versions, devices, flags, data fingerprint
metrics.jsonl  one object a line: step, split, name → value; functions of the run only
timing.jsonl   clocks and throughput, which differ from run to run
summary.json   written at the end
evaluation.json  what --evaluate found
lock           held by the process that is running
"""

import contextlib
import fcntl
import hashlib
import importlib.metadata
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import ml_collections

from cv_jax import config as configs
from cv_jax import distributed
from cv_jax.errors import InputError, RunError
from cv_jax.fields import FIELDS

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "tensorflow-datasets", "grain")


def default_workdir(reference: str, config: ml_collections.ConfigDict) -> Path:
    """`runs/<config>-<dataset>-<digest of the result fields>`."""
    name = Path(reference.partition(":")[0]).stem
    dataset = "".join(c if c.isalnum() or c in "._" else "_" for c in config.data.name)
    return Path("runs") / f"{name}-{dataset}-{configs.digest(config)}"


def check(
    path: Path,
    config: ml_collections.ConfigDict,
    fingerprint: dict[str, Any],
    evaluating: bool = False,
) -> None:
    """Makes sure that a run of this config may go on here; writes nothing.

    Args:
      path: the run directory.
      config: the resolved config.
      fingerprint: what identifies the data.
      evaluating: accept other values of evaluation fields.

    Raises:
      InputError: the directory was started with another config or on other data, belongs to
        something else, or cannot be written.
    """
    if "://" in str(path) or str(path).startswith("gs:/"):
        raise InputError(f"--workdir={path}: object stores are not supported; give a local folder")
    if path.exists() and not path.is_dir():
        raise InputError(f"--workdir={path} is a file; give a folder")
    ways_out = "give another --workdir, or the old values"
    if (path / "config.json").is_file():
        try:
            old = json.loads((path / "config.json").read_text())
            starts = _read_starts(path)
        except (OSError, ValueError) as error:
            raise InputError(f"--workdir={path}: config.json or run.json: {error}") from None
        kinds = ("result",) if evaluating else ("result", "evaluation")
        lines = configs.difference(old, config, kinds)
        if lines:
            raise InputError(
                f"--workdir={path} was started with another config; {ways_out}: {'; '.join(lines)}"
            )
        before = starts[-1]["data"] if starts else fingerprint
        changed = [
            f"{part}.{key}: {before[part].get(key)!r} there, {value!r} now"
            for part in fingerprint
            for key, value in fingerprint[part].items()
            if before[part].get(key) != value and not (evaluating and part == "mesh")
        ]
        if changed:
            what = "other data" if not changed[0].startswith("mesh.") else "other devices"
            raise InputError(
                f"--workdir={path} was started on {what}; {ways_out}: {'; '.join(changed)}"
            )
    elif path.is_dir() and any(child.name != "lock" for child in path.iterdir()):
        raise InputError(f"--workdir={path} holds files but no run; give an empty or new folder")
    _check_writable(path)


@contextlib.contextmanager
def claimed(path: Path, flag: str = "--workdir") -> Iterator[None]:
    """Makes the directory and holds its lock; the lock goes with the process if that is killed.

    Args:
      path: the directory.
      flag: what the user named it by.

    Raises:
      InputError: another process is running there.
    """
    path.mkdir(parents=True, exist_ok=True)
    with (path / "lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            owner = (path / "lock").read_text().strip() or "another process"
            raise InputError(f"{flag}={path} is in use by {owner}") from None
        text = f"process {os.getpid()} on {socket.gethostname()}\n"
        file.truncate(0)
        file.write(text)
        file.flush()
        yield


@contextlib.contextmanager
def shared(path: Path) -> Iterator[None]:
    """`claimed` by the first of several processes, for all; they see to it that they share it.

    Raises:
      InputError: another process is running there, or the directory is not the same for all.
    """
    lock, main = path / "lock", distributed.is_main()
    with claimed(path) if main else contextlib.nullcontext():
        text = distributed.decided(lock.read_text)
        end = time.monotonic() + 20  # a network file system may be so late
        while not (lock.is_file() and lock.read_text() == text):
            if time.monotonic() > end:
                raise InputError(
                    f"--workdir={path} of process {jax.process_index()} is not that of process 0: "
                    f"all processes need one that they share"
                )
            time.sleep(0.1)
        yield


def in_use(path: Path) -> bool:
    """Whether a process holds the directory's lock."""
    try:
        with (path / "lock").open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def record_start(
    path: Path,
    config: ml_collections.ConfigDict,
    fingerprint: dict[str, Any],
    step: int,
    weights: str | None = None,
) -> None:
    """Writes `config.json` at the first start, and adds this start to `run.json`.

    Args:
      path: the run directory.
      config: the run's.
      fingerprint: what identifies the data.
      step: updates made.
      weights: digest of the weights that `config.init_from` gave to this start, if any.
    """
    if not (path / "config.json").is_file():
        write_json(path / "config.json", configs.flatten(config))
    start = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "step": step,
        "command": sys.argv,
        **environment(),
        "config": configs.flatten(config),
        "data": fingerprint,
        **({} if weights is None else {"init_from": weights}),
    }
    write_json(path / "run.json", [*_read_starts(path), start])


def environment() -> dict[str, Any]:
    """What the program is and runs on."""
    return {
        "commit": commit(),
        "python": sys.version.split()[0],
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "devices": [f"{d.platform} {d.device_kind}" for d in jax.devices()],
        "processes": jax.process_count(),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
    }


def evaluation_file(path: Path, config: ml_collections.ConfigDict) -> Path:
    """`evaluation.json`; or, where evaluation fields or `eval.extra` are not those that the run was
    started with, `evaluation-<digest of them>.json`, so that neither replaces the other."""
    old, now = json.loads((path / "config.json").read_text()), configs.flatten(config)
    names = [name for name, field in FIELDS.items() if field.kind == "evaluation"]
    values = {name: now[name] for name in [*names, "eval.extra"]}
    if all(old.get(name, FIELDS[name].default) == value for name, value in values.items()):
        return path / "evaluation.json"
    digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:8]
    return path / f"evaluation-{digest}.json"


def write_json(path: Path, value: Any) -> None:
    """Writes a file atomically: readers see the old one or the new one, whole."""
    text = json.dumps(value, indent=2) + "\n"
    # A list of numbers takes one line: a confusion matrix has one for each class.
    text = re.sub(r"\[\n[-+\w.,\s]*\]", lambda found: " ".join(found[0].split()), text)
    with tempfile.NamedTemporaryFile(
        "w", dir=path.parent, prefix=f".{path.name}-", delete=False
    ) as f:
        f.write(text)
        f.flush()
        os.fsync(f.fileno())
    os.chmod(f.name, 0o644)
    os.replace(f.name, path)


def append_line(path: Path, value: dict[str, Any]) -> None:
    """Adds one JSON object as a line, on disk when this returns."""
    with path.open("a") as file:
        file.write(json.dumps(value) + "\n")
        file.flush()
        os.fsync(file.fileno())


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a file of lines; a last line that was cut short is left out.

    Raises:
      RunError: a whole line is no JSON.
    """
    if not path.is_file():
        return []
    complete = [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
    try:
        return [json.loads(line) for line in complete]
    except ValueError as error:
        raise RunError(f"{path} is damaged: {error}") from None


def cut_after(path: Path, step: int) -> None:
    """Drops the lines of steps after `step`: the run will write them again."""
    if path.is_file():
        kept = [line for line in read_lines(path) if line["step"] <= step]
        scratch = path.with_name(f".{path.name}")
        scratch.write_text("".join(json.dumps(line) + "\n" for line in kept))
        os.replace(scratch, path)


def _read_starts(path: Path) -> list[dict[str, Any]]:
    file = path / "run.json"
    return json.loads(file.read_text()) if file.is_file() else []


def _check_writable(path: Path) -> None:
    existing = path
    while not existing.exists():
        existing = existing.parent
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise InputError(f"--workdir={path} cannot be written: {error.strerror}") from None


def commit() -> str | None:
    """The commit of the code that is running, with "+" if files differ from it."""
    root = Path(__file__).resolve().parent.parent
    try:
        git = ["git", "-C", str(root)]
        commit = subprocess.run(
            [*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True
        ).stdout.strip()
        dirty = subprocess.run(
            [*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit + ("+" if dirty else "")
