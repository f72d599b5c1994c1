"""The run directory: the files of a run besides checkpoints.

config.json      the resolved config of the first start, flat
classes.json     names of the classes, in the order of the classifier
run.json         a list of starts: time, commit, versions, devices, flags, data fingerprint
metrics.jsonl    one object a line: step, split, name → value; equal if the run is repeated
timing.jsonl     times and throughput; they differ from run to run
digests/         of large data: digests of the examples that were read; see `data.digests`
summary.json     written at the end
evaluation.json  the metrics of --evaluate
lock             locked by the running process

JSON records have checksums (see `json_files`). A checkpoint holds the metric lines up to its step;
a restart restores metrics.jsonl from them.
"""

import glob
import hashlib
import itertools
import json
import logging
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jaxlib
import ml_collections

from cv_jax import config as configs
from cv_jax import paths
from cv_jax.config.fields import FIELDS
from cv_jax.data import digests
from cv_jax.devices import processes
from cv_jax.errors import InputError
from cv_jax.run import (
    checkpoint_files,
    checkpoint_folder,
    class_names,
    identity,
    json_files,
    owner,
    provenance,
)
from cv_jax.run.starts import read_starts as read_starts
from cv_jax.run.starts import started_with

FOLDERS = ("checkpoints", "checkpoints/damaged", "pictures", "profile", digests.FOLDER)
FILES = ("config.json", class_names.FILE, "metrics.jsonl", "timing.jsonl", "summary.json")

logger = logging.getLogger(__name__)


def named_workdir(reference: str, config: ml_collections.ConfigDict) -> Path:
    """Return `runs/<config>-<dataset>-<digest>`, whether it exists or not."""
    name = Path(configs.split_reference(reference)[0]).stem
    dataset = "".join(c if c.isalnum() or c in "._" else "_" for c in config.data.name)
    return Path("runs") / f"{name}-{dataset}-{configs.digest(config)}"


def first_config(path: Path) -> dict[str, Any] | None:
    """Return the flat config of the first start in a directory; `None` without a run.

    Raises:
      InputError: the directory has a run, but its config is damaged or missing.
    """
    return started_with(path)[0]


def default_workdir(
    reference: str, config: ml_collections.ConfigDict, fingerprint: dict[str, Any]
) -> Path:
    """Return `runs/<config>-<dataset>-<digest>`, or the directory that has this run already.

    An older version may have given the directory another digest, or its data may have moved. Of
    several directories, the one with the most updates is chosen.

    Args:
      reference: the config file, with its argument.
      config: the resolved config.
      fingerprint: identity of the data.
    """
    path, name = named_workdir(reference, config), Path(configs.split_reference(reference)[0]).stem
    compared = [field for part, field in identity.PLACES.items() if part in fingerprint]

    def has_this_run(path):
        try:
            old, starts = started_with(path)
        except (InputError, OSError):
            return False
        return old is not None and not (
            identity.other_config(old, starts, config, ("result",), compared)
            or identity.other_data(starts, fingerprint)
        )

    def choose():
        if has_this_run(path):
            return str(path)
        others = sorted(Path("runs").glob(f"{glob.escape(name)}-*"))
        found = [other for other in others if has_this_run(other)]
        return str(max(found, key=_newest_step, default=path))

    return Path(processes.decided(choose))


def check(
    path: Path,
    config: ml_collections.ConfigDict,
    fingerprint: dict[str, Any],
    evaluating: bool = False,
    classes: tuple[str, ...] = (),
) -> None:
    """Check that a run of this config may start or continue in a directory; write nothing.

    Args:
      path: the run directory.
      config: the resolved config.
      fingerprint: identity of the data.
      evaluating: accept other values of evaluation fields, and a directory that cannot be written.
      classes: names of the classes; () if unknown.

    Raises:
      InputError: the run in the directory has another config or other data, the directory has files
        but no run, or it cannot be written.
    """
    if "://" in str(path) or str(path).startswith("gs:/"):
        raise InputError(f"--workdir={path}: object stores are not supported; give a local folder")
    paths.require_folder(path, "--workdir")
    ways_out = "give another --workdir, or the old values"
    old, starts = started_with(path)
    if old is not None:
        kinds = ("result",) if evaluating else ("result", "evaluation")
        compared = (*identity.PLACES.values(), "init_from")  # an evaluation reads only the data
        lines = identity.other_config(old, starts, config, kinds, compared)
        if lines:
            raise InputError(
                f"--workdir={path} was started with another config; {ways_out}: {'; '.join(lines)}"
            )
        class_names.check(path, classes, ways_out)
        if evaluating:  # devices do not matter, and another split may be measured
            same_split = old["data.eval_split"] == config.data.eval_split
            compared = ("train", "eval") if same_split else ("train",)
            fingerprint = {part: fingerprint[part] for part in compared if part in fingerprint}
        lines = identity.other_data(starts, fingerprint)
        if lines:
            others = {"mesh": "other devices", "teacher": "another teacher"}
            subject = others.get(lines[0].partition(".")[0], "other data")
            raise InputError(
                f"--workdir={path} was started with {subject}; {ways_out}: {'; '.join(lines)}"
            )
    elif path.is_dir():
        strange = sorted(x.name for x in path.iterdir() if not _may_precede_a_run(x))
        if strange:
            shown = ", ".join(strange[:5]) + (", …" if len(strange) > 5 else "")
            raise InputError(
                f"--workdir={path} holds files but no run; give an empty or new folder, or move "
                f"away what is in it: {shown}"
            )
    _check_kinds(path)
    if not evaluating:  # the metrics of a run on a read-only disk are printed
        check_writable(path)


def needs_initial_weights(path: Path, config: ml_collections.ConfigDict) -> bool:
    """Whether to load `config.init_from`: without a checkpoint, and to check weights that moved."""
    if config.init_from is None:
        return False
    old, _ = started_with(path)
    moved = old is not None and old.get("init_from") != config.init_from
    return moved or _newest_step(path) < 0


def check_initial_weights(path: Path, weights: str | None) -> None:
    """Check that loaded weights are those of the first start.

    Args:
      path: the run directory.
      weights: digest of the loaded weights; `None` if none were loaded.

    Raises:
      InputError: the run was started with other weights.
    """
    before = identity.initial_weights(started_with(path)[1])
    if before is not None and weights not in (None, before):
        raise InputError(
            f"--workdir={path} was started with other weights in config.init_from; give another "
            f"--workdir, or the old weights: sha256: was {before!r}, is now {weights!r}"
        )


def repair(path: Path, classes: tuple[str, ...] = ()) -> None:
    """Write a damaged `config.json` or `classes.json` again, and rename a damaged `run.json`."""
    config, starts = started_with(path)
    if config is not None:
        class_names.record(path, classes)
    if config is not None and not _is_sound(path / "config.json"):
        logger.warning("%s is damaged and written again", path / "config.json")
        json_files.write_record(path / "config.json", config)
    if os.path.lexists(path / "run.json") and not starts:
        counted = itertools.chain([""], (f"-{count}" for count in itertools.count(2)))
        names = (f"run.json.damaged{end}" for end in counted)
        free = next(name for name in names if not os.path.lexists(path / name))
        logger.warning("%s is damaged and renamed to %s", path / "run.json", free)
        os.replace(path / "run.json", path / free)


def record_start(
    path: Path,
    config: ml_collections.ConfigDict,
    fingerprint: dict[str, Any],
    step: int,
    weights: str | None = None,
    classes: tuple[str, ...] = (),
    trials: int = 1,
    run: str | None = None,
    options: dict[str, str] | None = None,
) -> str:
    """Write `config.json` and `classes.json` at the first start, and add this start to `run.json`.

    Args:
      path: the run directory.
      config: the config of the run.
      fingerprint: identity of the data.
      step: updates made.
      weights: digest of the initial weights from `config.init_from`; `None` without them.
      classes: names of the classes; () if unknown.
      trials: number of runs in the program.
      run: name of the run in its mark, see `owner`; default: a new name.
      options: of the compiler, for the steps.

    Returns:
      The conditions that differ from those of the earlier starts, in words; "" without any.
    """
    old, starts = started_with(path)
    if old is None:
        json_files.write_record(path / "config.json", configs.flatten(config))
    class_names.record(path, classes)
    names = class_names.read(path)
    start = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "step": step,
        "command": sys.argv,
        **provenance.environment(),
        "compiler_options": options or {},
        "trials_in_one_program": trials,
        "config": configs.flatten(config),
        "data": fingerprint,
        "mark": owner.mark(config, fingerprint, run or owner.new_name()),
        **({"classes": class_names.digest(names)} if names else {}),
        **({} if weights is None else {"init_from": weights}),
    }
    json_files.write_json(
        path / "run.json", [*map(json_files.sealed, starts), json_files.sealed(start)]
    )
    return identity.other_conditions(starts, start)


def compiler_options(path: Path) -> dict[str, str] | None:
    """Return the options of the compiler that the run in a directory is computed with.

    It has none if an older version began it. `None` stands for a free choice: without a run, and if
    another version of jaxlib, which may not know the options, made the last start.
    """
    _, starts = started_with(path)
    if not starts or starts[-1].get("versions", {}).get("jaxlib") != jaxlib.__version__:
        return None
    return starts[-1].get("compiler_options", {})


def other_conditions(
    path: Path, config: ml_collections.ConfigDict, step: int, options: dict[str, str]
) -> str:
    """Say in which conditions the first `step` updates differ from this process; "" if in none.

    `options` are those of the compiler.
    """
    conditions = {**provenance.environment(), "compiler_options": options}
    now = {"step": step, **conditions, "config": configs.flatten(config)}
    return identity.other_conditions(started_with(path)[1], now)


def evaluation_file(path: Path, config: ml_collections.ConfigDict) -> Path:
    """Return the file for the metrics of `--evaluate`.

    It is `evaluation.json` if evaluation fields and `eval.extra` equal those of the first start,
    else `evaluation-<digest of those that differ>.json`: no evaluation replaces a different one.
    """
    old, now = started_with(path)[0], configs.flatten(config)
    names = [name for name, field in FIELDS.items() if field.kind == "evaluation"]
    before = {name: old.get(name, FIELDS[name].default) for name in [*names, "eval.extra"]}
    values = {name: now[name] for name in before if now[name] != before[name]}
    if not values:
        return path / "evaluation.json"
    digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:8]
    return path / f"evaluation-{digest}.json"


def _newest_step(path: Path) -> int:
    return max(checkpoint_files.finished(path / "checkpoints"), default=-1)


def _is_sound(file: Path) -> bool:
    try:
        json_files.read_record(file)
    except (json_files.Damaged, FileNotFoundError):
        return False
    return True


def _may_precede_a_run(path: Path) -> bool:
    """Whether a file may be older than `config.json`: of a killed start, or a report.

    A run whose files are removed while it saves leaves an unfinished checkpoint.
    """
    if path.name == "checkpoints" and path.is_dir():
        return checkpoint_folder.only_unfinished(path)
    return path.name in ("lock", "report.html") or path.name.startswith(".writing-")


def _check_kinds(path: Path) -> None:
    """Raise an `InputError` for a folder or a pipe in place of a file, or the other way round."""
    for name in FOLDERS:
        place = os.path.join(path, name)
        if os.path.lexists(place) and not os.path.isdir(place):
            kind = paths.described(path / name)
            raise InputError(f"--workdir={path}: {path / name} {kind}, not a folder; move it away")
    for name in FILES:  # `repair` renames whatever is in place of run.json
        place = os.path.join(path, name)
        replaced = os.path.islink(place) and name != "timing.jsonl"
        if os.path.lexists(place) and not os.path.isfile(place) and not replaced:
            kind = paths.described(path / name)
            raise InputError(f"--workdir={path}: {path / name} {kind}; move it away")


def check_writable(path: Path, flag: str = "--workdir") -> None:
    """Raise an `InputError` unless the directory exists, or can be made, and can be written."""
    paths.require_folder(path, flag)
    existing = path
    while not existing.exists():
        existing = existing.parent
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise InputError(f"{flag}={path} cannot be written: {error.strerror}") from None
