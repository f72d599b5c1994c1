"""Checkpoints: asynchronous, atomic, verified. The only file that imports orbax.

    checkpoints/<step>/state/        the arrays, written by orbax
    checkpoints/<step>/meta.json     step, and metrics of the evaluation at that step
    checkpoints/<step>/metrics.jsonl the run's metric lines up to that step
    checkpoints/<step>/digests.json  SHA-256 of every other file
    checkpoints/damaged/<step>…/     what failed verification, with REASON.txt

A checkpoint is written under another name and renamed when its digests are on disk, so a directory
named by a number is complete. Orbax restores damaged bytes without a word; the digests are what
makes a wrong restore impossible.
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
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from cv_jax.devices.processes import barrier, decided, is_main
from cv_jax.errors import RunError
from cv_jax.evaluation.metrics import quality

logger = logging.getLogger(__name__)
# Orbax logs every failure with a page of frames; it also raises it, and here it becomes one line.
logging.getLogger("absl").addFilter(lambda record: "orbax" not in record.pathname)
# It reads and writes arrays side by side. When one fails, which is raised, nobody waits for the
# others, and Python says so of each: of those that fail, too, and of those that never began.
# Nothing else here uses asyncio.
logging.getLogger("asyncio").addFilter(
    lambda record: "exception was never retrieved" not in record.getMessage()
)
warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)

_report = sys.unraisablehook


def _report_but_orphans(what):
    frames = [frame for frame, _ in traceback.walk_tb(what.exc_traceback)]
    of_orbax = any("orbax" in frame.f_globals.get("__name__", "") for frame in frames)
    if not of_orbax and str(what.exc_value) != "Event loop is closed":
        _report(what)


sys.unraisablehook = _report_but_orphans

WRITING, DELETING = ".writing", ".deleting"


class CheckpointError(RunError):
    """A checkpoint could not be written, or none of those present can be restored."""


class Checkpoints:
    """Saves and restores the train state of one run.

    Attributes:
      folder: where they lie; made when the first is saved.
      keep_last: newest checkpoints that are kept, at least 1.
      keep_best: checkpoints of the best evaluation that are kept besides; see `metrics.quality`.
    """

    def __init__(self, folder: Path, keep_last: int = 2, keep_best: int = 0):
        self.folder, self.keep_last, self.keep_best = folder, max(1, keep_last), keep_best
        # Uncompressed: weights hardly compress, and training would wait for the cores it takes.
        handler = ocp.PyTreeCheckpointHandler(use_compression=False)
        self._orbax = ocp.AsyncCheckpointer(handler)
        self._finishing: threading.Thread | None = None
        self._failure: BaseException | None = None

    def steps(self) -> list[int]:
        """Steps of the finished checkpoints, ascending."""
        return finished(self.folder)

    def save(self, step: int, state: Any, metrics: dict[str, float], lines: str = "") -> None:
        """Starts saving and returns when the arrays are copied out of the devices.

        Args:
          step: updates made.
          state: any tree of arrays.
          metrics: of the evaluation at this step, if there was one.
          lines: the run's metric lines up to this step.

        Raises:
          CheckpointError: this or the previous save failed; finished checkpoints are untouched.
        """
        self.wait()
        barrier()  # the other processes wait here, not in a collective, for process 0 to finish
        writing = self.folder / f"{step}{WRITING}"
        try:
            if is_main():
                self.folder.mkdir(parents=True, exist_ok=True)
                shutil.rmtree(writing, ignore_errors=True)
                writing.mkdir()
                meta = {"step": step, "metrics": metrics}
                (writing / "meta.json").write_text(json.dumps(meta))
                (writing / "metrics.jsonl").write_text(lines)
            # Every process writes its part, once process 0 has made the folder for it.
            self._orbax.save((writing / "state").absolute(), args=ocp.args.PyTreeSave(_flat(state)))
        except Exception as error:
            raise self._failed(step, error) from error
        self._finishing = threading.Thread(target=self._finish, args=(step, writing), daemon=True)
        self._finishing.start()

    def wait(self) -> None:
        """Returns when nothing is being written any more.

        Raises:
          CheckpointError: the save that was under way failed.
        """
        if self._finishing is not None:
            self._finishing.join()
            self._finishing = None
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure

    def close(self) -> None:
        """Waits, and releases orbax's threads."""
        self.wait()
        self._orbax.close()

    def restore(
        self, target: Any, repair: bool = True, newest: int | None = None
    ) -> tuple[Any, int] | None:
        """The newest checkpoint that verifies, and its step; none if nothing was ever finished.

        Args:
          target: a tree of `jax.ShapeDtypeStruct` with shardings, of the state's structure.
          repair: move unfinished and damaged checkpoints aside on the way, each with its reason in
            the log; otherwise they are only passed over.
          newest: leave out those of later steps.

        Raises:
          CheckpointError: checkpoints are there, and none of them is sound, or the sound one is of
            another structure.
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
                logger.warning("checkpoint %s is passed over: %s", self.folder / str(step), reason)
        if steps:
            raise CheckpointError(
                f"no checkpoint in {self.folder} is sound: all {len(steps)} are damaged"
                f"; start anew with another --workdir"
            )
        return None

    def lines(self, step: int) -> str:
        """The metric lines that lie in the checkpoint of that step."""
        return read_lines(self.folder / str(step))

    def _load(self, step, target):
        flat = _flat(target)
        try:
            restored = ocp.Checkpointer(ocp.PyTreeCheckpointHandler()).restore(
                (self.folder / str(step) / "state").absolute(),
                args=ocp.args.PyTreeRestore(
                    item=flat, restore_args=ocp.checkpoint_utils.construct_restore_args(flat)
                ),
            )
        except (ValueError, KeyError) as error:
            raise CheckpointError(
                f"checkpoint {self.folder / str(step)} is sound but holds another state than this "
                f"run's: {' '.join(str(error).split())[:300]}"
            ) from error
        return jax.tree.unflatten(jax.tree.structure(target), [restored[key] for key in flat])

    def _finish(self, step, writing):
        try:
            self._orbax.wait_until_finished()
            if is_main():
                _write_synced(writing / "digests.json", json.dumps(digests(writing), indent=0))
                self._replace(writing, self.folder / str(step))
                self._prune()
        except BaseException as error:  # told to whoever waits
            self._failure = self._failed(step, error)

    def _replace(self, writing, final):
        if final.exists():  # the same step saved twice
            os.rename(final, f"{final}{DELETING}")
        os.rename(writing, final)
        shutil.rmtree(f"{final}{DELETING}", ignore_errors=True)

    def _failed(self, step, error):
        left = self.steps()
        good = f"checkpoint {left[-1]} is intact" if left else "there is no earlier one"
        message = " ".join(str(error).split())[:300]
        return CheckpointError(
            f"checkpoint {step} could not be written to {self.folder}: {message}; {good}"
        )

    def _prune(self):
        """Deletes what neither `keep_last` nor `keep_best` keeps."""
        steps = self.steps()
        metrics = {step: read_metrics(self.folder / str(step)) for step in steps}
        scored = [step for step in steps if metrics[step]]
        best = sorted(scored, key=lambda step: (quality(metrics[step]), step), reverse=True)
        keep = {*steps[-self.keep_last :], *best[: self.keep_best]}
        for step in steps:
            if step not in keep:
                doomed = self.folder / f"{step}{DELETING}"
                # Renamed first: a checkpoint that is half deleted must not look finished.
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
            # Nobody can use half a state: one of them is kept, so that kills do not fill disks.
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
    """Arrays of the newest sound checkpoint, by name, on the host; the others are not read.

    Nothing has to be known of the state, and nothing is moved or written.

    Args:
      folder: the run's `checkpoints`.
      wanted: whether to read the array of that name, such as "params/head/bias".

    Returns:
      `(name → array, step)`.

    Raises:
      CheckpointError: there is no checkpoint, or none is sound.
    """
    for step in reversed(finished(folder)):
        path = folder / str(step)
        reason = damage(path)
        if reason is None:
            return _read(path / "state", wanted), step
        logger.warning("checkpoint %s is passed over: %s", path, reason)
    raise CheckpointError(f"no checkpoint in {folder} is sound")


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
    """Steps of the finished checkpoints in a folder, ascending."""
    if not folder.is_dir():
        return []
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdecimal())


def read_metrics(checkpoint: Path) -> dict[str, float]:
    """Metrics of the evaluation at that checkpoint's step; empty if there was none."""
    try:
        return json.loads((checkpoint / "meta.json").read_text())["metrics"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}  # what is wrong with it, restoring will say


def read_lines(checkpoint: Path) -> str:
    """The run's metric lines up to that checkpoint's step."""
    return (checkpoint / "metrics.jsonl").read_text()


def digests(folder: Path) -> dict[str, str]:
    """Relative path → SHA-256, of every file below a folder except `digests.json` itself."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path != folder / "digests.json":
            with path.open("rb") as file:
                found[path.relative_to(folder).as_posix()] = hashlib.file_digest(
                    file, "sha256"
                ).hexdigest()
    return found


def damage(checkpoint: Path) -> str | None:
    """Why a checkpoint must not be restored, in one line, or none if every file is as written."""
    try:
        written = json.loads((checkpoint / "digests.json").read_text())
        present = digests(checkpoint)
    except (OSError, ValueError) as error:
        return f"unreadable: {' '.join(str(error).split())}"
    if not isinstance(written, dict):
        return "digests.json does not hold an object"
    for name in sorted({*written, *present, "meta.json", "metrics.jsonl"}):
        if name not in present:
            return f"{name} is missing"
        if name not in written:
            return f"{name} does not belong to it"
        if written[name] != present[name]:
            return f"{name} differs from what was written"
    return None


def _flat(tree: Any) -> dict[str, Any]:
    """Name → leaf. Stored flat, a state does not depend on how containers are written."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def _write_synced(path: Path, text: str) -> None:
    with path.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
