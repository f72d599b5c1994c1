"""The run directory: what a run leaves on disk besides checkpoints.

config.json    the resolved config that the run was started with, flat
run.json       a list of starts: time, commit, versions, devices, flags, data fingerprint
metrics.jsonl  one object a line: step, split, name → value; functions of the run only
timing.jsonl   clocks and throughput, which differ from run to run
summary.json   written at the end
evaluation.json  what --evaluate found
lock           held by the process that is running

The JSON records are sealed (see `json_files`); every checkpoint holds the metric lines before it,
and a restart takes them from there.
"""

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import ml_collections

from cv_jax import config as configs
from cv_jax.config.fields import FIELDS
from cv_jax.devices import processes
from cv_jax.errors import InputError
from cv_jax.run import json_files, provenance

logger = logging.getLogger(__name__)


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
    old, starts = _started_with(path)
    if old is not None:
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
    elif path.is_dir() and any(not _is_ours_before_a_run(child) for child in path.iterdir()):
        raise InputError(f"--workdir={path} holds files but no run; give an empty or new folder")
    _check_writable(path)


@contextlib.contextmanager
def claimed(path: Path, flag: str = "--workdir") -> Iterator[None]:
    """Makes the directory and holds its lock; the lock goes with the process if that is killed.

    Args:
      path: the directory.
      flag: what the user named it by.

    Raises:
      InputError: another process is running there, or something that is no file is called "lock".
    """
    path.mkdir(parents=True, exist_ok=True)
    lock = path / "lock"
    if os.path.lexists(lock) and not lock.is_file():
        raise InputError(f"{flag}={path}: {lock} is no file; take it away")
    with lock.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            owner = lock.read_text(errors="replace").strip() or "another process"
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
    lock, main = path / "lock", processes.is_main()
    with claimed(path) if main else contextlib.nullcontext():
        text = processes.decided(lock.read_text)
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


def repair(path: Path) -> None:
    """Writes a damaged `config.json` again, and sets a damaged `run.json` aside."""
    config, starts = _started_with(path)
    if config is not None and not _is_sound(path / "config.json"):
        logger.warning("%s is damaged and written again", path / "config.json")
        json_files.write_record(path / "config.json", config)
    if os.path.lexists(path / "run.json") and not starts:
        logger.warning("%s is damaged and set aside as run.json.damaged", path / "run.json")
        os.replace(path / "run.json", path / "run.json.damaged")


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
    old, starts = _started_with(path)
    if old is None:
        json_files.write_record(path / "config.json", configs.flatten(config))
    start = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "step": step,
        "command": sys.argv,
        **provenance.environment(),
        "config": configs.flatten(config),
        "data": fingerprint,
        **({} if weights is None else {"init_from": weights}),
    }
    json_files.write_json(
        path / "run.json", [*map(json_files.sealed, starts), json_files.sealed(start)]
    )


def evaluation_file(path: Path, config: ml_collections.ConfigDict) -> Path:
    """`evaluation.json`; or, where evaluation fields or `eval.extra` are not those that the run was
    started with, `evaluation-<digest of them>.json`, so that neither replaces the other."""
    old, now = _started_with(path)[0], configs.flatten(config)
    names = [name for name, field in FIELDS.items() if field.kind == "evaluation"]
    values = {name: now[name] for name in [*names, "eval.extra"]}
    if all(old.get(name, FIELDS[name].default) == value for name, value in values.items()):
        return path / "evaluation.json"
    digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:8]
    return path / f"evaluation-{digest}.json"


def read_starts(path: Path) -> list[dict[str, Any]]:
    """The starts that `run.json` of a run directory lists.

    Raises:
      FileNotFoundError: there is none.
      json_files.Damaged: it is not as it was written.
    """
    return [json_files.unsealed(start) for start in json_files.read_json(path / "run.json", list)]


def damage(path: Path, kept: str) -> list[str]:
    """A line for each record of a run that is not as it was written.

    Args:
      path: the run directory.
      kept: the metric lines in its newest sound checkpoint.
    """
    found = []
    files = [path / "config.json", path / "run.json", path / "summary.json"]
    for file in [*files, *sorted(path.glob("evaluation*.json"))]:
        # There is no summary before the end.
        with contextlib.suppress(FileNotFoundError):
            try:
                read_starts(path) if file.name == "run.json" else json_files.read_record(file)
            except json_files.Damaged as error:
                found.append(f"{file}: {error}")
    file = path / "metrics.jsonl"
    if not (file.read_bytes() if file.is_file() else b"").startswith(kept.encode()):
        found.append(f"{file}: it does not hold the lines of the newest checkpoint")
    return found


def _started_with(path: Path) -> tuple[dict[str, Any] | None, list[dict[str, Any]]]:
    """The config that the run in this directory was started with, none if there is no run, and its
    starts. Each start holds the config as well, so that one file can stand in for the other.

    Raises:
      InputError: a file is there and neither is sound.
    """
    starts = []
    with contextlib.suppress(json_files.Damaged, FileNotFoundError):
        starts = read_starts(path)
    try:
        return json_files.read_record(path / "config.json"), starts
    except FileNotFoundError:
        if not os.path.lexists(path / "run.json"):
            return None, []
        reason = "config.json is missing, run.json is damaged"
    except json_files.Damaged as error:
        reason = f"config.json is damaged ({error})"
    if not starts:
        raise InputError(
            f"--workdir={path}: {reason}: nothing tells which run this is; give another --workdir"
        )
    return starts[0]["config"], starts


def _is_sound(file: Path) -> bool:
    try:
        json_files.read_record(file)
    except (json_files.Damaged, FileNotFoundError):
        return False
    return True


def _is_ours_before_a_run(path: Path) -> bool:
    """Whether a kill may have left this file before `config.json` was there."""
    return path.name == "lock" or path.name.startswith(".writing-")


def _check_writable(path: Path) -> None:
    existing = path
    while not existing.exists():
        existing = existing.parent
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise InputError(f"--workdir={path} cannot be written: {error.strerror}") from None
