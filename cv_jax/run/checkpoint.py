"""Checkpoints: asynchronous, atomic, verified. The only file that imports orbax.

    checkpoints/<step>/state/        the arrays, written by orbax
    checkpoints/<step>/meta.json     step, and metrics of the evaluation at that step
    checkpoints/<step>/metrics.jsonl the run's metric lines up to that step
    checkpoints/<step>/digests.json  SHA-256 of every other file
    checkpoints/damaged/<step>…/     a checkpoint that failed verification, with REASON.txt

A checkpoint is written under a temporary name and renamed when its digests are on disk, so a folder
named by a number is complete. Orbax restores damaged bytes without an error; the digests prevent
this.
"""

import hashlib
import json
import logging
import os
import shutil
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from cv_jax.devices.processes import barrier, decided, is_main
from cv_jax.errors import RunError, one_line
from cv_jax.evaluation.metrics import quality
from cv_jax.run.json_files import write_synced

logger = logging.getLogger(__name__)
# Orbax logs each failure with its traceback and also raises it; here it becomes a one-line error.
logging.getLogger("absl").addFilter(lambda record: "orbax" not in record.pathname)
# Orbax reads and writes arrays in concurrent tasks. After one task fails, asyncio warns about every
# abandoned task; silence these warnings. No other code here uses asyncio.
logging.getLogger("asyncio").addFilter(
    lambda record: "exception was never retrieved" not in record.getMessage()
)
warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)

_default_hook = sys.unraisablehook


def _hook_without_orbax(unraisable):
    frames = [frame for frame, _ in traceback.walk_tb(unraisable.exc_traceback)]
    of_orbax = any("orbax" in frame.f_globals.get("__name__", "") for frame in frames)
    if not of_orbax and str(unraisable.exc_value) != "Event loop is closed":
        _default_hook(unraisable)


sys.unraisablehook = _hook_without_orbax

WRITING, DELETING = ".writing", ".deleting"
ADDED = ("earlier_loss",)  # arrays that older versions did not save: zero in their checkpoints


class CheckpointError(RunError):
    """A checkpoint cannot be written, or no checkpoint can be restored."""


class Checkpoints:
    """Saves and restores the train state of one run.

    Attributes:
      folder: folder of the checkpoints; created by the first save.
      keep_last: number of newest checkpoints to keep, at least 1.
      keep_best: number of checkpoints with the best evaluations to keep besides; see
        `metrics.quality`.
    """

    def __init__(self, folder: Path, keep_last: int = 2, keep_best: int = 0):
        self.folder, self.keep_last, self.keep_best = folder, max(1, keep_last), keep_best
        # Weights hardly compress, and compression would take CPU time from training.
        handler = ocp.PyTreeCheckpointHandler(use_compression=False)
        self._orbax = ocp.AsyncCheckpointer(handler)
        self._finishing: threading.Thread | None = None
        self._failure: BaseException | None = None

    def steps(self) -> list[int]:
        """Steps of the finished checkpoints, ascending."""
        return finished(self.folder)

    def save(self, step: int, state: Any, metrics: dict[str, float], lines: str = "") -> None:
        """Copy the arrays from the devices, and start writing them in the background.

        Args:
          step: updates made.
          state: any tree of arrays.
          metrics: metrics of the evaluation at this step; empty without one.
          lines: the run's metric lines up to this step.

        Raises:
          CheckpointError: this or the previous save failed; finished checkpoints are unchanged.
        """
        self.wait()
        barrier()  # the other processes wait for process 0 here, not in a collective
        writing = self.folder / f"{step}{WRITING}"
        try:
            if is_main():
                self.folder.mkdir(parents=True, exist_ok=True)
                shutil.rmtree(writing, ignore_errors=True)
                writing.mkdir()
                meta = {"step": step, "metrics": metrics}
                (writing / "meta.json").write_text(json.dumps(meta))
                (writing / "metrics.jsonl").write_text(lines)
            # Each process writes its shards after process 0 has created the folder.
            self._orbax.save((writing / "state").absolute(), args=ocp.args.PyTreeSave(_flat(state)))
        except Exception as error:
            raise self._failed(step, error) from error
        self._finishing = threading.Thread(target=self._finish, args=(step, writing), daemon=True)
        self._finishing.start()

    def wait(self) -> None:
        """Wait until the current save has ended.

        Raises:
          CheckpointError: the save failed.
        """
        if self._finishing is not None:
            self._finishing.join()
            self._finishing = None
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure

    def close(self) -> None:
        """Wait for the current save, and end orbax's threads."""
        self.wait()
        self._orbax.close()

    def restore(
        self, target: Any, repair: bool = True, newest: int | None = None
    ) -> tuple[Any, int] | None:
        """Restore the newest sound checkpoint.

        Args:
          target: tree of `jax.ShapeDtypeStruct` with shardings, with the structure of the state.
          repair: move newer unfinished and damaged checkpoints to `damaged` and log the reason;
            otherwise skip them.
          newest: ignore checkpoints of later steps.

        Returns:
          `(state, step)`; `None` without a finished checkpoint.

        Raises:
          CheckpointError: all checkpoints are damaged, or the sound one has another structure.
        """
        step = decided(lambda: self._newest_sound(repair, newest))
        return None if step is None else (self._load(step, target), step)

    def _newest_sound(self, repair, newest):
        if repair:
            self._clear_unfinished()
        steps = [step for step in self.steps() if newest is None or step <= newest]
        for step in reversed(steps):
            reason = damage(self.folder / str(step))
            if reason is None:
                return step
            if repair:
                self._set_aside(self.folder / str(step), reason)
            else:
                logger.warning("checkpoint %s is skipped: %s", self.folder / str(step), reason)
        if steps:
            raise CheckpointError(
                f"no checkpoint in {self.folder} is sound: all {len(steps)} are damaged; "
                "start a new run with another --workdir"
            )
        return None

    def lines(self, step: int) -> str:
        """Return the metric lines in the checkpoint of a step."""
        return read_lines(self.folder / str(step))

    def _load(self, step, target):
        flat, path = _flat(target), (self.folder / str(step) / "state").absolute()
        handler = ocp.PyTreeCheckpointHandler()
        try:
            stored = handler.metadata(path).tree
            new = {name: flat.pop(name) for name in ADDED if name in flat and name not in stored}
            restored = ocp.Checkpointer(handler).restore(
                path,
                args=ocp.args.PyTreeRestore(
                    item=flat, restore_args=ocp.checkpoint_utils.construct_restore_args(flat)
                ),
            )
        except (ValueError, KeyError) as error:
            raise CheckpointError(
                f"checkpoint {self.folder / str(step)} is sound, but its arrays do not match this "
                f"run's state: {one_line(error, 300)}"
            ) from error
        restored |= {name: _zeros(x) for name, x in new.items()}
        leaves = [restored[name] for name in _flat(target)]
        return jax.tree.unflatten(jax.tree.structure(target), leaves)

    def _finish(self, step, writing):
        try:
            self._orbax.wait_until_finished()
            if is_main():
                write_synced(writing / "digests.json", json.dumps(digests(writing), indent=0))
                self._replace(writing, self.folder / str(step))
                self._prune()
        except BaseException as error:  # raised by `wait`
            self._failure = self._failed(step, error)

    def _replace(self, writing, final):
        if final.exists():  # a second save of the same step
            os.rename(final, f"{final}{DELETING}")
        os.rename(writing, final)
        shutil.rmtree(f"{final}{DELETING}", ignore_errors=True)

    def _failed(self, step, error):
        left = self.steps()
        good = f"checkpoint {left[-1]} is intact" if left else "there is no earlier checkpoint"
        return CheckpointError(
            f"checkpoint {step} could not be written to {self.folder}: {one_line(error, 300)}; "
            f"{good}"
        )

    def _prune(self):
        """Delete the checkpoints that neither `keep_last` nor `keep_best` keeps."""
        steps = self.steps()
        metrics = {step: read_metrics(self.folder / str(step)) for step in steps}
        scored = [step for step in steps if metrics[step]]
        best = sorted(scored, key=lambda step: (quality(metrics[step]), step), reverse=True)
        keep = {*steps[-self.keep_last :], *best[: self.keep_best]}
        for step in steps:
            if step not in keep:
                doomed = self.folder / f"{step}{DELETING}"
                # Renamed first: a partly deleted checkpoint must not look finished.
                os.rename(self.folder / str(step), doomed)
                shutil.rmtree(doomed, ignore_errors=True)

    def _clear_unfinished(self):
        if self.folder.is_dir():
            for path in self.folder.glob(f"*{DELETING}"):
                shutil.rmtree(path, ignore_errors=True)
            for path in self.folder.glob(f"*{WRITING}"):
                self._set_aside(path, "unfinished: the run ended while it was being written")

    def _set_aside(self, path, reason):
        logger.warning("checkpoint %s is moved aside: %s", path, reason)
        goal = self.folder / "damaged" / path.name.removesuffix(WRITING)
        if path.name.endswith(WRITING):
            # A partial state is useless; keep only the last, so that kills do not fill the disk.
            goal = self.folder / "damaged" / "unfinished"
            shutil.rmtree(goal, ignore_errors=True)
        count = 1
        while goal.exists():
            count += 1
            goal = goal.with_name(f"{path.name}-{count}")
        goal.parent.mkdir(exist_ok=True)
        os.rename(path, goal)
        (goal / "REASON.txt").write_text(f"{path.name}: {reason}\n")


def read_newest(folder: Path, wanted: Callable[[str], bool]) -> tuple[dict[str, np.ndarray], int]:
    """Read arrays of the newest sound checkpoint to the host, without its structure.

    No file is moved or written.

    Args:
      folder: folder of the run's checkpoints.
      wanted: whether to read the array with a name such as "params/head/bias".

    Returns:
      `(name → array, step)`.

    Raises:
      CheckpointError: there is no sound checkpoint.
    """
    if not finished(folder):
        raise CheckpointError("there is no checkpoint yet")
    for found in read_each(folder, wanted, newest_first=True):
        return found
    raise CheckpointError(f"no checkpoint in {folder} is sound")


def read_each(
    folder: Path, wanted: Callable[[str], bool], newest_first: bool = False
) -> Iterator[tuple[dict[str, np.ndarray], int]]:
    """Yield arrays and step of every sound checkpoint, the oldest first; see `read_newest`."""
    for step in sorted(finished(folder), reverse=newest_first):
        path = folder / str(step)
        reason = damage(path)
        if reason is None:
            yield _read(path / "state", wanted), step
        else:
            logger.warning("checkpoint %s is skipped: %s", path, reason)


def _read(path: Path, wanted: Callable[[str], bool]) -> dict[str, np.ndarray]:
    handler = ocp.PyTreeCheckpointHandler()
    stored = handler.metadata(path.absolute()).tree
    item = {
        name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in stored.items() if wanted(name)
    }
    as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), item)
    args = ocp.args.PyTreeRestore(item=item, restore_args=as_numpy, partial_restore=True)
    return ocp.Checkpointer(handler).restore(path.absolute(), args=args)


def finished(folder: Path) -> list[int]:
    """Return the steps of the finished checkpoints in a folder, ascending."""
    if not folder.is_dir():
        return []
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdecimal())


def read_metrics(checkpoint: Path) -> dict[str, float]:
    """Return the metrics of the evaluation at a checkpoint's step; empty without one."""
    try:
        return json.loads((checkpoint / "meta.json").read_text())["metrics"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}  # restoring reports the damage


def read_lines(checkpoint: Path) -> str:
    """Return the run's metric lines up to a checkpoint's step."""
    return (checkpoint / "metrics.jsonl").read_text()


def digests(folder: Path) -> dict[str, str]:
    """Return relative path → SHA-256 of every file below a folder except `digests.json`."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path != folder / "digests.json":
            with path.open("rb") as file:
                found[path.relative_to(folder).as_posix()] = hashlib.file_digest(
                    file, "sha256"
                ).hexdigest()
    return found


def damage(checkpoint: Path) -> str | None:
    """Return the damage of a checkpoint in one line; `None` if every file is intact."""
    try:
        written = json.loads((checkpoint / "digests.json").read_text())
        present = digests(checkpoint)
    except (OSError, ValueError) as error:
        return f"unreadable: {one_line(error)}"
    if not isinstance(written, dict):
        return "digests.json is not an object"
    for name in sorted({*written, *present, "meta.json", "metrics.jsonl"}):
        if name not in present:
            return f"{name} is missing"
        if name not in written:
            return f"{name} does not belong to the checkpoint"
        if written[name] != present[name]:
            return f"{name} differs from what was written"
    return None


def _zeros(x: jax.ShapeDtypeStruct) -> jax.Array:
    return jax.jit(lambda: jnp.zeros(x.shape, x.dtype), out_shardings=x.sharding)()


def _flat(tree: Any) -> dict[str, Any]:
    """Return name → leaf; stored flat, a state does not depend on the classes of its containers."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}
