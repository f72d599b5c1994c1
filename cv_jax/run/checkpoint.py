"""Checkpoints: asynchronous, atomic, verified. The only file that imports orbax.

    checkpoints/<step>/state/        the arrays, written by orbax
    checkpoints/<step>/meta.json     step, metrics of the evaluation at that step, mark of the run
    checkpoints/<step>/metrics.jsonl the run's metric lines up to that step
    checkpoints/<step>/digests.json  SHA-256 of every other file
    checkpoints/damaged/<step>…/     a checkpoint that cannot be used, with REASON.txt

A checkpoint is written under a temporary name and renamed when its digests are on disk, so a folder
named by a number is complete. Orbax restores damaged bytes without an error; the digests prevent
this. A checkpoint of another step or run, such as a renamed or copied folder, counts as damaged
(`owner.py`).
"""

import json
import logging
import os
import secrets
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

from cv_jax.devices.processes import agreed, barrier, decided, gathered, is_main
from cv_jax.errors import RunError, one_line
from cv_jax.evaluation.metrics import quality
from cv_jax.run import owner
from cv_jax.run.checkpoint_files import (
    RETRIES,
    damage,
    digests,
    examined,
    finished,
    inode,
    misnamed,
    newest_sound,
    read_lines,
    read_metrics,
    stray,
)
from cv_jax.run.checkpoint_folder import WRITING, clear_unfinished, delete, remove, set_aside
from cv_jax.run.json_files import write_synced
from cv_jax.run.owner import Mark

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
      mark: mark of the run, which each checkpoint gets; see `owner.py`.
    """

    def __init__(
        self,
        folder: Path,
        keep_last: int = 2,
        keep_best: int = 0,
        asking: Mark | None = None,
        guard: Callable[[], None] = lambda: None,
    ):
        """
        Args:
          folder: see above.
          keep_last: see above.
          keep_best: see above.
          asking: `owner.properties` of the run that restores, in place of a lost `run.json`.
          guard: called before files are changed; raises if the run no longer owns the folder.
        """
        self.folder, self.keep_last, self.keep_best = folder, max(1, keep_last), keep_best
        self.mark: Mark | None = None
        self._asking, self._guard = asking, guard
        self._token = ""
        self._writer: Any = None  # of orbax, after the first save
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
        self._guard()
        # The name is unique: a run whose folder another run has taken cannot write into its files.
        self._token = self._token or agreed(secrets.token_hex(4))
        writing = self.folder / f"{step}.{self._token}{WRITING}"
        try:
            if is_main():
                self.folder.mkdir(parents=True, exist_ok=True)
                remove(writing)
                writing.mkdir()
                mark = {} if self.mark is None else {"mark": self.mark}
                meta = {"step": step, "metrics": metrics, **mark}
                (writing / "meta.json").write_text(json.dumps(meta))
                (writing / "metrics.jsonl").write_text(lines)
            # Each process writes its shards after process 0 has created the folder.
            self._write((writing / "state").absolute(), state)
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
        if self._writer is not None:
            self._writer.close()

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
        for _ in range(RETRIES):
            step = decided(lambda: self._newest_sound(repair, newest))
            if step is None:
                return None
            path = self.folder / str(step)
            state = _unless_gone(path, lambda path=path: self._load(path, target))
            if all(gathered(state is not None)):
                return state, step
        raise CheckpointError(f"the checkpoints in {self.folder} are deleted while they are read")

    def _newest_sound(self, repair, newest):
        if repair:
            clear_unfinished(self.folder)
            for path in misnamed(self.folder):
                logger.warning("%s is not read: a step is written in another way", path)
        rejected = []

        def reject(path, reason):
            rejected.append(path)
            if repair:
                set_aside(path, reason)
            else:
                logger.warning("checkpoint %s is skipped: %s", path, reason)

        step = newest_sound(self.folder, newest, self._owner(), reject)
        if step is None and rejected:
            raise CheckpointError(
                f"no checkpoint in {self.folder} is sound: all {len(rejected)} are damaged or of "
                "another step or run; start a new run with another --workdir"
            )
        return step

    def _owner(self):
        return owner.of(self.folder.absolute().parent, self._asking)

    def lines(self, step: int) -> str:
        """Return the metric lines in the checkpoint of a step."""
        return read_lines(self.folder / str(step))

    def _load(self, checkpoint, target):
        ocp, flat, path = _orbax(), _flat(target), (checkpoint / "state").absolute()
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
                f"checkpoint {checkpoint} is sound, but its arrays do not match this "
                f"run's state: {one_line(error, 300)}"
            ) from error
        restored |= {name: _zeros(x) for name, x in new.items()}
        leaves = [restored[name] for name in _flat(target)]
        return jax.tree.unflatten(jax.tree.structure(target), leaves)

    def _write(self, path, state):
        ocp = _orbax()
        if self._writer is None:
            # Weights hardly compress, and compression would take CPU time from training.
            handler = ocp.PyTreeCheckpointHandler(use_compression=False)
            self._writer = ocp.AsyncCheckpointer(handler)
        self._writer.save(path, args=ocp.args.PyTreeSave(_flat(state)))

    def _finish(self, step, writing):
        try:
            self._writer.wait_until_finished()
            self._guard()
            if is_main():
                write_synced(writing / "digests.json", json.dumps(digests(writing), indent=0))
                self._replace(writing, self.folder / str(step))
                self._prune()
        except BaseException as error:  # raised by `wait`
            self._failure = self._failed(step, error)

    def _replace(self, writing, final):
        if os.path.lexists(final):  # a second save of the same step, or a copied folder
            reason = damage(final, self._owner())
            delete(final) if reason is None else set_aside(final, reason)
        os.rename(writing, final)

    def _failed(self, step, error):
        try:
            self._guard()
        except RunError as moved:  # the reason, whatever else failed
            return moved
        left = self.steps()
        good = f"checkpoint {left[-1]} is intact" if left else "there is no earlier checkpoint"
        return CheckpointError(
            f"checkpoint {step} could not be written to {self.folder}: {one_line(error, 300)}; "
            f"{good}"
        )

    def _prune(self):
        """Delete the run's checkpoints that neither `keep_last` nor `keep_best` keeps."""
        known = self._owner()
        if self.mark is not None:  # also if another run has taken the folder
            same = (one for one in known.marks if one.get("run") == self.mark["run"])
            known = known._replace(marks=(self.mark, *same))
        steps = [step for step in self.steps() if not stray(self.folder / str(step), known)]
        metrics = {step: read_metrics(self.folder / str(step)) for step in steps}
        scored = [step for step in steps if metrics[step]]
        best = sorted(scored, key=lambda step: (quality(metrics[step]), step), reverse=True)
        keep = {*steps[-self.keep_last :], *best[: self.keep_best]}
        for step in steps:
            if step not in keep:
                delete(self.folder / str(step))


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
    for _ in range(RETRIES):
        step = newest_sound(folder, None, None, _skip)
        if step is None:
            raise CheckpointError(f"no checkpoint in {folder} is sound")
        path = folder / str(step)
        arrays = _unless_gone(path, lambda path=path: _read(path / "state", wanted))
        if arrays is not None:
            return arrays, step
    raise CheckpointError(f"the checkpoints in {folder} are deleted while they are read")


def read_each(
    folder: Path, wanted: Callable[[str], bool]
) -> Iterator[tuple[dict[str, np.ndarray], int]]:
    """Yield arrays and step of every sound checkpoint, the oldest first; see `read_newest`."""
    for step in finished(folder):
        path = folder / str(step)
        reason = examined(path)
        if reason:
            _skip(path, reason)
        if reason is None:
            arrays = _unless_gone(path, lambda path=path: _read(path / "state", wanted))
            if arrays is not None:
                yield arrays, step


def _skip(path: Path, reason: str) -> None:
    logger.warning("checkpoint %s is skipped: %s", path, reason)


def _unless_gone(path: Path, read: Callable[[], Any]) -> Any:
    """Return what `read()` returns; `None` if the run has deleted the checkpoint meanwhile.

    A file that is missing reads as zeros, without an error.
    """
    before = inode(path)
    try:
        found = read()
    except Exception:
        if before is not None and inode(path) == before:
            raise
        return None
    return found if before is not None and inode(path) == before else None


def _orbax():
    """Import orbax when it is first used, because this takes longer than a first step."""
    import orbax.checkpoint

    return orbax.checkpoint


def _read(path: Path, wanted: Callable[[str], bool]) -> dict[str, np.ndarray]:
    ocp = _orbax()
    handler = ocp.PyTreeCheckpointHandler()
    stored = handler.metadata(path.absolute()).tree
    item = {
        name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in stored.items() if wanted(name)
    }
    as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), item)
    args = ocp.args.PyTreeRestore(item=item, restore_args=as_numpy, partial_restore=True)
    return ocp.Checkpointer(handler).restore(path.absolute(), args=args)


def _zeros(x: jax.ShapeDtypeStruct) -> jax.Array:
    return jax.jit(lambda: jnp.zeros(x.shape, x.dtype), out_shardings=x.sharding)()


def _flat(tree: Any) -> dict[str, Any]:
    """Return name → leaf; stored flat, a state does not depend on the classes of its containers."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}
