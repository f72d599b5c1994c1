"""Runs that are trained once in this process, their true results, and the checks after a fault.

`benchmarks/reliability.py` copies these runs, strikes the copies, and calls `recover`. A start is
`loop.train` with the parts of the run, which are built and compiled once.
"""

import contextlib
import dataclasses
import functools
import hashlib
import io
import logging
import os
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from fault_injection import CaseFailed, permissions_hold
from PIL import Image

from cv_jax import __main__ as program
from cv_jax import config as configs
from cv_jax.commands import verify
from cv_jax.errors import ExitCode, exit_code, one_line
from cv_jax.run import checkpoint
from cv_jax.training import experiment, loop

ROOT = Path(__file__).resolve().parent.parent
STEPS = 3  # updates of each run; a checkpoint follows each
_SHORT = {
    "total_steps": STEPS,
    "checkpoint.every_steps": 1,
    "checkpoint.keep_last": STEPS,
    "eval.every_steps": STEPS,
    "optim.name": "sgd",
    "log.every_steps": 1,
    "batch_size": 8,
    "image_size": 8,
    "augment": "",
    "eval_preprocess": "",
    "mesh.devices": 1,
    "schedule.warmup_epochs": "none",
    "report": False,
    "model.widths": "8",
}
_DIGITS = {**_SHORT, "data.train_split": "train[:64]", "data.eval_split": "test[:32]"}
_FILES = {**_SHORT, "data.train_split": "train", "data.eval_split": "val"}

# Name of a run → dataset and fields. "twin" is the same run again; "other" and "wide" differ in
# the seed and in the network.
RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    "own": ("", _DIGITS),
    "twin": ("", _DIGITS),
    "other": ("", {**_DIGITS, "seed": 1}),
    "wide": ("", {**_DIGITS, "model.widths": "16", "ema.decay": 0.9, "augment": "flip"}),
    "photos": ("folder:PHOTOS", _FILES),
    "records": ("records:RECORDS", _FILES),
}

State = dict[str, tuple[str, tuple[int, ...], bytes]]  # name → dtype, shape and bytes of an array


class Trained(NamedTuple):
    """An uninterrupted run.

    Attributes:
      path: its directory; never changed.
      parts: the parts of the run.
      states: step → arrays of the checkpoint.
      texts: names of files that a restart must restore → content.
    """

    path: Path
    parts: experiment.Experiment
    states: dict[int, State]
    texts: dict[str, str]


@dataclasses.dataclass(frozen=True)
class Case:
    """One fault: copies of trained runs in a folder of their own.

    Attributes:
      trained: all trained runs.
      folder: an empty folder.
      draw: source of every random choice.
      name: name of the run that is struck; its copy is `folder/run`.
      changes: number of changes of files by an uninterrupted run; see `moment_faults`.
    """

    trained: dict[str, Trained]
    folder: Path
    draw: random.Random
    name: str = "own"
    changes: int = 0

    @property
    def path(self) -> Path:
        return self.folder / "run"

    @property
    def run(self) -> Trained:
        return self.trained[self.name]

    def copy(self, name: str | None = None, to: str = "run", finished: bool = True) -> Path:
        """Copy a run; without its end, as if it was killed before the last checkpoint."""
        path = self.folder / to
        shutil.copytree(self.trained[name or self.name].path, path)
        if not finished:
            shutil.rmtree(path / "checkpoints" / str(STEPS))
            (path / "summary.json").unlink()
        return path

    def start(self, path: Path | None = None) -> tuple[int, str]:
        """Start or continue the run, in `path` or `folder/run`; see `called`."""
        return called(loop.train, self.run.parts, path or self.path, "the same command")


class Struck(NamedTuple):
    """A fault that struck.

    Attributes:
      details: what was done to which file.
      seen: whether `verify` must find damage.
      holds: name of the run in `folder/run`, if it is another one.
      kept: digests of the contents of files that are not the run's, and that must not be lost.
      permissions: whether permissions hold during the recovery, also for root.
      told: what `recover` returns, if the fault has made its own checks.
    """

    details: str
    seen: bool = False
    holds: str | None = None
    kept: frozenset[str] = frozenset()
    permissions: bool = False
    told: str = ""


# ---- Training


def train_all(folder: Path, names: tuple[str, ...] = tuple(RUNS)) -> dict[str, Trained]:
    """Train runs of these names in a folder."""
    from cv_jax.data import embedded

    digits = embedded.ensure("digits", folder / "data")
    if {"photos", "records"} & set(names):
        write_photos(folder / "photos")
        words = ["prepare", f"folder:{folder / 'photos'}", "--to", str(folder / "records"), "--raw"]
        quietly(program.main, [*words, "--shard-examples", "4", "--workers", "1"])
    return {name: _train(name, folder, digits) for name in names}


def _train(name: str, folder: Path, digits: Path) -> Trained:
    dataset, fields = RUNS[name]
    dataset = dataset.replace("PHOTOS", str(folder / "photos"))
    dataset = dataset.replace("RECORDS", str(folder / "records"))
    texts = {key: str(value) for key, value in {**fields, "data.dir": digits}.items()}
    config = configs.load(f"{ROOT}/configs/mlp.py:{dataset}", texts)
    parts, path = compiled_once(experiment.build(config)), folder / "trained" / name
    code, said = called(loop.train, parts, path, "the same command")
    if code:
        raise CaseFailed(f"wrong: {said}")
    found = checkpoint.read_each(path / "checkpoints", lambda name: True)
    states = {step: state_of(arrays) for arrays, step in found}
    files = ("metrics.jsonl", "summary.json", "classes.json", "config.json")
    return Trained(path, parts, states, {file: (path / file).read_text() for file in files})


def compiled_once(parts: experiment.Experiment) -> experiment.Experiment:
    """Make the parts of a run return the same jitted functions at every start."""
    for name in ("init", "train_step", "evaluation_step"):
        object.__setattr__(parts, name, functools.cache(getattr(parts, name)))
    return parts


def write_photos(root: Path) -> None:
    """Write images of two classes."""
    draw = np.random.default_rng(0)
    for split, count in (("train", 6), ("val", 3)):
        for label in ("cat", "dog"):
            (root / split / label).mkdir(parents=True)
            for i in range(count):
                pixels = draw.integers(0, 256, (8, 8, 3), np.uint8)
                Image.fromarray(pixels).save(root / split / label / f"{i}.png")


def state_of(arrays: dict[str, np.ndarray]) -> State:
    """Return arrays in a form that compares every bit."""
    return {name: (str(x.dtype), x.shape, x.tobytes()) for name, x in arrays.items()}


# ---- Calls


def called(function: Callable[..., int], *arguments: Any) -> tuple[int, str]:
    """Call a function of the program as its command line does.

    Returns:
      The exit code, and what was printed or logged; the last line is that of the error.

    Raises:
      CaseFailed: an error that is not one line.
    """
    output, logger = io.StringIO(), logging.getLogger("cv_jax")
    handler = logging.StreamHandler(output)
    logger.addHandler(handler)
    try:
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
            return function(*arguments), output.getvalue()
    except CaseFailed:
        raise
    except Exception as error:
        code = exit_code(error)
        if code is None:
            raise CaseFailed(f"wrong: {type(error).__name__}: {error}") from error
        line = one_line(error)
        if not line.isprintable() or not line:
            raise CaseFailed(f"wrong: not one line: {line!r}") from error
        return code, f"{output.getvalue()}error: {line}"
    finally:
        logger.removeHandler(handler)


def quietly(function: Callable[..., int], *arguments: Any) -> None:
    code, said = called(function, *arguments)
    if code:
        raise CaseFailed(f"wrong: {said}")


# ---- Checks


def digests(folder: Path) -> dict[Path, str]:
    """Return the digest of the content of every file below a folder."""
    found = {}
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):  # without permissions
            if path.is_file() and not path.is_symlink():
                found[path] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def allow(path: Path) -> None:
    """Give all permissions to a folder, or file, and what is below it."""
    if path.is_symlink() or not path.exists():
        return
    path.chmod(0o755)
    for folder, folders, files in os.walk(path):
        for name in (*folders, *files):
            if not os.path.islink(os.path.join(folder, name)):
                os.chmod(os.path.join(folder, name), 0o755)


def readable(case: Case, path: Path, name: str | None = None) -> None:
    """Read the newest checkpoint of a directory, and compare it with the truth.

    Args:
      case: the case.
      path: the run directory.
      name: name of the run in it, if it is not that of the case.
    """

    def read():
        arrays, step = checkpoint.read_newest(path / "checkpoints", lambda name: True)
        if state_of(arrays) != case.trained[name or case.name].states.get(step):
            raise CaseFailed(f"wrong: the arrays of step {step} are not those of the run")
        return 0

    called(read)


def require_result(case: Case, path: Path) -> None:
    """Raise `CaseFailed` unless a run has the files and the state of the uninterrupted one."""
    for file, text in case.run.texts.items():
        if file != "config.json" and (path / file).read_text() != text:
            raise CaseFailed(f"wrong: {file} differs")
    arrays, step = checkpoint.read_newest(path / "checkpoints", lambda name: True)
    if step != STEPS or state_of(arrays) != case.run.states[STEPS]:
        raise CaseFailed(f"wrong: the state at step {step} differs")


def verified(path: Path) -> list[str]:
    """Return the lines of `verify` that report damage."""
    code, said = called(verify.main, [str(path)])
    good = (": sound", ": the data of the training")
    lines = [line for line in said.splitlines() if not line.endswith(good)]
    if bool(code) != bool(lines):
        raise CaseFailed(f"wrong: verify ends with {code}: {said}")
    return lines


REMEDIES = re.compile(
    r"another --workdir|move it away|remove it|the same command|continue with|in use by"
    r"|No space left|File too large|Permission denied|cannot be written|could not be written"
)


def recover(case: Case, struck: Struck) -> str:
    """Bring a struck run to its end; see `_recover`."""
    with permissions_hold() if struck.permissions else contextlib.nullcontext():
        return _recover(case, struck)


def _recover(case: Case, struck: Struck) -> str:
    """Read, verify and start a struck run until it has ended, following the advice of each error.

    Returns:
      "at once" if the next start ended with the right result, else "after advice".

    Raises:
      CaseFailed: a wrong result, an error without advice, or lost files.
    """
    if case.path.exists():
        readable(case, case.path, struck.holds)
        if struck.seen and not verified(case.path):
            raise CaseFailed("wrong: verify finds no damage")
    path, told = case.path, "at once"
    for _ in range(6):
        before = digests(path) if path.exists() else {}
        code, said = case.start(path)
        if code == ExitCode.DONE:
            break
        told = "after advice"
        last = said.splitlines()[-1]
        if code not in (ExitCode.FAILED, ExitCode.MISTAKE) or not REMEDIES.search(last):
            raise CaseFailed(f"lost: exit code {code} without advice: {said}")
        _require_kept(case, path, before, code, last)
        path = _follow(case, path, last)
    else:
        raise CaseFailed(f"lost: the run does not end; {last}")
    require_result(case, path)
    lost = struck.kept - set(digests(case.folder).values())
    if lost:
        raise CaseFailed(f"lost: {len(lost)} files that are not the run's")
    _require_sound(path)
    return told


def _require_kept(case: Case, path: Path, before: dict[Path, str], code: int, line: str) -> None:
    """Raise `CaseFailed` if a start that ended with an error has lost a file.

    A refused start changes nothing. One that failed later may have moved damaged checkpoints.
    """
    now = digests(path) if path.exists() else {}
    if code == ExitCode.MISTAKE:
        same = {p: x for p, x in now.items() if p.name != "lock"}
        if same != {p: x for p, x in before.items() if p.name != "lock"}:
            raise CaseFailed(f"lost: a refused start changed files: {line}")
    elif "is sound" in line and not set(before.values()) <= {*now.values()}:
        raise CaseFailed(f"lost: files of a run that cannot continue: {line}")


def _follow(case: Case, path: Path, line: str) -> Path:
    """Do what an error says; return the directory for the next start."""
    if re.search("move it away|remove it", line):
        named = [p for p in sorted(path.rglob("*")) if str(p) in line]
        if not named:
            raise CaseFailed(f"lost: the path in the advice does not exist: {line}")
        away = case.folder / "away"
        away.mkdir(exist_ok=True)
        named[-1].rename(away / f"{len(list(away.iterdir()))}")
    elif "Permission denied" in line:
        allow(path)
    elif "another --workdir" in line:
        return case.folder / "another"
    elif "continue with the place to which it was moved" in line:
        return case.folder / "moved"
    return path


def _require_sound(path: Path) -> None:
    """Follow the advice of `verify` after the run has ended; then it must find nothing."""
    lines = verified(path)
    for line in lines:
        place = Path(line.partition(": ")[0])
        evaluated = place.name.startswith("evaluation") and "another run" not in line
        if not (re.search("can be deleted|can be moved away|another way$", line) or evaluated):
            raise CaseFailed(f"lost: verify still finds damage: {line}")
        allow(place)
        shutil.move(place, path.parent / f"aside-{place.name}")
    left = verified(path) if lines else []
    if left:
        raise CaseFailed(f"lost: verify still finds damage: {left}")


def require_mistake(function: Callable[..., int], *arguments: Any, says: str) -> None:
    """Raise `CaseFailed` unless a call ends with an `InputError` whose line matches `says`."""
    code, said = called(function, *arguments)
    if code != ExitCode.MISTAKE or not re.search(says, said.splitlines()[-1]):
        raise CaseFailed(f"wrong: {code}, {said}")
