"""The record of one training run: its starts, metric lines, timing lines, checkpoints and summary.

Every training loop writes run directories through this class: the loop of one run
(`training.loop`) and the loop of many vmapped runs (`sweep.vmapped`). The order of writing is:
step, evaluation, metric lines, checkpoint. A checkpoint holds the metric lines up to its step, so a
restart neither repeats nor skips a line.
"""

import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from cv_jax import config as configs
from cv_jax.devices import processes
from cv_jax.errors import ExitCode
from cv_jax.evaluation.metrics import quality
from cv_jax.run import class_names, json_files, owner, starts, writers
from cv_jax.run import workdir as records
from cv_jax.run.checkpoint import CheckpointError, Checkpoints

logger = logging.getLogger(__name__)

RECORDS = ("config.json", "run.json", class_names.FILE)
DECISIVE = "test"  # the evaluation that determines the best checkpoint


class Record:
    """Writes the run directory of one run. Of several processes only process 0 writes lines.

    Attributes:
      workdir: the run directory.
      config: the run's config.
      code: exit code of the run; `None` while it runs.
      saved_step: step of the newest checkpoint.
      improved: whether the last decisive evaluation is the best so far and must be saved.
      other_conditions: see `workdir.record_start`.
      note: loss and utilisation of the last training line, for the progress bar.
    """

    def __init__(
        self,
        workdir: Path,
        config: ml_collections.ConfigDict,
        fingerprint: dict[str, Any],
        classes: tuple[str, ...] = (),
        *,
        total_steps: int,
        log_every: int,
        save_every: int,
        schedule: Callable[[int], Any],
        utilisation: Callable[[float], float] | None = None,
        keep_last: int = 1,
        trials: int = 1,
        compiler_options: dict[str, str] | None = None,
        guard: Callable[[], None] = lambda: None,
    ):
        """
        Args:
          workdir: the run directory.
          config: the run's config.
          fingerprint: identity of the data.
          classes: names of the classes; () if unknown.
          total_steps: updates of the whole run.
          log_every: steps between two training lines; 0 for the last step only.
          save_every: steps between two checkpoints; 0 for the last step only.
          schedule: learning rate as a function of the number of updates.
          utilisation: `images per second → share of the devices' peak`; `None` if unknown.
          keep_last: lower limit of the number of newest checkpoints to keep.
          trials: number of runs in the program.
          compiler_options: of the steps.
          guard: called before each write; see `lock.Claim.check`.
        """
        self.workdir, self.config, self.code = workdir, config, None
        self.saved_step, self.improved, self.note = 0, False, ""
        self.other_conditions = ""
        self._fingerprint, self._classes = fingerprint, classes
        self._total_steps, self._schedule, self._trials = total_steps, schedule, trials
        self._compiler_options = compiler_options
        self._log_every, self._save_every = log_every, save_every
        self._utilisation, self.guard = utilisation, guard
        self._main = processes.is_main()
        self._started = self._saved_time = time.monotonic()
        self._best, self._scores = -math.inf, (0, {})
        keep = config.checkpoint
        self._checkpoints = Checkpoints(
            workdir / "checkpoints",
            max(keep_last, keep.keep_last),
            keep.keep_best,
            asking=owner.properties(config, fingerprint),
            guard=guard,
        )

    # ---- Start

    def restore(self, target: Any, newest: int | None = None) -> tuple[Any, int] | None:
        """Return the newest sound checkpoint as `(state, step)`; `None` for a new run.

        Args:
          target: shapes, dtypes and shardings of the state.
          newest: ignore later checkpoints.
        """
        self.guard()
        if self._main:
            records.repair(self.workdir, self._classes)
        return self._checkpoints.restore(target, newest=newest)

    def start(self, step: int, weights: str | None) -> bool:
        """Open the metric lines at `step` and record the start.

        Args:
          step: updates made; 0 for a new run.
          weights: digest of the initial weights from `config.init_from`.

        Returns:
          Whether the run has already finished. Then nothing is recorded, unless `run.json` is lost.
        """
        self.saved_step = step
        if self._main:
            text = self._checkpoints.lines(step) if step else ""
            file = self.workdir / "metrics.jsonl"
            self._lines = json_files.Lines(file, text, self.guard)
        done = step == self._total_steps
        done = processes.decided(lambda: done and (self.workdir / "summary.json").exists())
        if done and processes.decided(lambda: bool(starts.known_starts(self.workdir))):
            return True

        def record():
            # A run keeps its name, also if only its checkpoints have it.
            stored = owner.read_mark(self.workdir / "checkpoints" / str(step)) or {}
            run = owner.of(self.workdir).name or stored.get("run") or owner.new_name()
            self._checkpoints.mark = owner.mark(self.config, self._fingerprint, run)
            return records.record_start(
                self.workdir,
                self.config,
                self._fingerprint,
                step,
                weights,
                self._classes,
                self._trials,
                run,
                self._compiler_options,
            )

        self.other_conditions = processes.decided(record)
        self._records = {}
        for name in RECORDS if self._main else ():
            with contextlib.suppress(FileNotFoundError):  # classes without names
                self._records[name] = (self.workdir / name).read_text()
        return done

    def open_writers(self, say: Callable[[str], None]) -> None:
        """Open `log.writers` with lines and pictures before this start; `say` prints messages."""
        kept = self._lines.values() if self._main else []
        tests = (quality(line) for line in kept if line["split"] == DECISIVE)
        self._best = max(tests, default=-math.inf)
        drawn = writers.drawn(self.workdir)
        drawn = [line for line in drawn if line["step"] <= self.saved_step]
        lines = sorted([*kept, *drawn], key=lambda line: line["step"])
        self._writers = writers.open_writers(self.config, self.workdir, lines, say)

    # ---- Lines

    def first_step(self, step: int, timing: dict[str, float]) -> str:
        """Write the timing of the first step after a start; return a message for the user."""
        self._write_timing(step, timing)
        return (
            f"first step after {timing['first_step_seconds']:.1f} s; compiling took "
            f"{timing['compile_seconds']:.1f} s, {timing['programs_loaded']} of "
            f"{timing['programs']} programs loaded from the cache"
        )

    def settle(self, step: int, metrics: dict[str, Any], images_per_second: float) -> bool:
        """Fetch the metrics of a training step, and write its lines if they are due.

        Args:
          step: updates made.
          metrics: output of `training.step.make_train_step`, on the devices or on the host.
          images_per_second: speed of the run.

        Returns:
          Whether the loss is finite. Nothing is written otherwise.
        """
        loss, sums = jax.device_get((metrics["loss"], metrics["sums"]))
        if not math.isfinite(loss):
            return False
        if not (is_due(step, self._log_every) or step == self._total_steps):
            return True
        means = _means(sums)
        self._write(step, "train", {**means, "learning_rate": float(self._schedule(step - 1))})
        if "norms" in metrics:
            norms = jax.device_get(metrics["norms"])
            self._write(step, "norms", {name: norm.item() for name, norm in norms.items()})
        timing = {"images_per_second": round(images_per_second, 2)}
        self.note = f", loss {means['loss']:.4f}"
        if self._utilisation is not None:
            timing["utilisation"] = round(self._utilisation(images_per_second), 4)
            self.note += f", {timing['utilisation']:.1%} of the peak"
        self._write_timing(step, timing)
        return True

    def evaluated(self, step: int, name: str, metrics: dict[str, float]) -> None:
        """Write the line of an evaluation; the evaluation "test" determines the best checkpoint."""
        self._write(step, name, metrics)
        if name == DECISIVE:
            better = quality(metrics) > self._best
            self._best, self._scores = max(self._best, quality(metrics)), (step, metrics)
            self.improved = better and self.config.checkpoint.keep_best > 0

    def pictured(self, files: Iterable[Path]) -> None:
        """Send pictures to the writers; see `writers.picture_file`."""
        for file in files if self._main else ():
            self._writers.write(writers.picture_line(file))

    def _write(self, step: int, split: str, metrics: dict[str, float]) -> None:
        if self._main:
            line = {"step": step, "split": split, **metrics}
            self._lines.append(line)
            self._writers.write(line)

    def _write_timing(self, step: int, timing: dict[str, float]) -> None:
        if self._main:
            seconds = round(time.monotonic() - self._started, 3)
            line = {"step": step, "seconds": seconds, **timing}
            json_files.append_line(self.workdir / "timing.jsonl", line, self.guard)

    # ---- Checkpoints

    def save_is_due(self, step: int) -> bool:
        """Whether a checkpoint is due after this many updates."""
        return is_due(step, self._save_every) or step == self._total_steps

    def overdue(self) -> bool:
        """Whether `checkpoint.every_seconds` have passed since the last checkpoint."""
        seconds = self.config.checkpoint.every_seconds
        return seconds is not None and time.monotonic() - self._saved_time >= seconds

    def save(self, step: int, state: Any) -> bool:
        """Start saving a checkpoint. Returns False, saving nothing, if a parameter is not finite.

        The loss belongs to the parameters before this update; the parameters after it are checked
        here.
        """
        if not _all_finite(state.params):
            return False
        self._keep_records()
        text = self._lines.text if self._main else ""
        evaluated, scores = self._scores
        self._checkpoints.save(step, state, scores if evaluated == step else {}, text)
        self.saved_step, self._saved_time, self.improved = step, time.monotonic(), False
        return True

    # ---- End

    def close(self, code: int) -> None:
        """End the run with an exit code: wait for the checkpoint, close the writers."""
        self.code = code
        self._checkpoints.close()
        self._writers.close(code)
        if self._main and code in (ExitCode.DONE, ExitCode.STOPPED):
            self._require_checkpoint()

    def _keep_records(self) -> None:
        """Write the records of the start again if another program has removed or changed them."""
        self.guard()
        for name, text in self._records.items():
            file = self.workdir / name
            try:
                same = json_files.read_text(file, json_files.RECORD_BYTES) == text
            except (OSError, ValueError, json_files.Damaged):
                same = False
            if not same:
                logger.warning("%s was changed or removed, and is written again", file)
                json_files.replace(file, text, self.guard)

    def _require_checkpoint(self) -> None:
        self._keep_records()
        if self.saved_step not in self._checkpoints.steps():
            raise CheckpointError(
                f"checkpoint {self.saved_step} was saved in {self.workdir} and is gone: another "
                "program has removed it; the same command makes it again"
            )

    def last_good_checkpoint(self) -> str:
        """Describe the newest checkpoint, for an error message."""
        saved = self._checkpoints.steps()
        found = f"the last good checkpoint is {saved[-1]}" if saved else "there is no checkpoint"
        return f"{found} in {self.workdir}"

    def write_summary(self, parameters: int, multiply_adds: int, again: bool = False) -> str:
        """Write `summary.json` of a finished run; `again` repairs a damaged one.

        Returns:
          The result as one line for the user.
        """
        if not self._main:
            return ""
        self.guard()
        self._lines.restore()
        sizes = {"parameters": parameters, "multiply_adds": multiply_adds}
        summary = _summarise({**about(self.config, self._total_steps), **sizes}, self._lines)
        if not (again and self._has_summary(summary)):
            json_files.write_record(self.workdir / "summary.json", summary, self.guard)
        return f"{_result(summary)} after {summary['step']} steps, in {self.workdir}"

    def _has_summary(self, summary: dict[str, Any]) -> bool:
        """Whether `summary.json` is sound and of this run; a version may count sizes otherwise."""
        file = self.workdir / "summary.json"
        try:
            found = json_files.read_record(file)
        except json_files.Damaged:
            logger.warning("%s is damaged and written again", file)
            return False
        lines = _other_results(found, summary)
        if lines:
            logger.warning("%s is of another run and written again: %s", file, "; ".join(lines))
        return not lines


def _other_results(found: dict[str, Any], summary: dict[str, Any]) -> list[str]:
    """Return one line for each result in which two summaries differ."""
    names = ("step", "model", "seed", *(n for n in summary if n.startswith(("train_", "test_"))))
    return [
        f"{name}: {found[name]!r}, not {summary[name]!r}"
        for name in names
        if name in found and repr(found[name]) != repr(summary[name])  # also if it is NaN
    ]


def is_due(step: int, every: int) -> bool:
    """Whether an event with the interval `every` follows update `step`; 0 means never."""
    return every > 0 and step % every == 0


def about(config: ml_collections.ConfigDict, step: int) -> dict[str, Any]:
    """Return the identity of a result: step, model, dataset, seed, digest of the result fields."""
    return {
        "step": step,
        "model": config.model.name,
        "dataset": config.data.name,
        "seed": config.seed,
        "digest": configs.digest(config),
    }


@jax.jit
def _all_finite(tree: Any) -> jax.Array:
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]).all()


def _means(sums: dict[str, Any]) -> dict[str, float]:
    """Return `loss` and `count`, and with classes `accuracy` and `correct`, from metric sums."""
    count = int(sums["count"])
    means = {"loss": (float(sums["loss"]) + float(sums.get("earlier_loss", 0))) / count}
    if "correct" in sums:
        means["accuracy"] = int(sums["correct"]) / count
        means["correct"] = int(sums["correct"])
    return {**means, "count": count}


def _summarise(run: dict[str, Any], lines: json_files.Lines) -> dict[str, Any]:
    """Return the run with its last and best metrics, a function of the metric lines."""
    train = [line for line in lines.values() if line["split"] == "train"][-1]
    tests = [line for line in lines.values() if line["split"] == DECISIVE]
    best = max(tests, key=lambda line: (quality(line), -line["step"]))
    kept = {"train": ("loss", "accuracy"), "test": ("loss", "accuracy", "correct", "count")}
    return {
        **run,
        **{f"train_{name}": train[name] for name in kept["train"] if name in train},
        **{f"test_{name}": tests[-1][name] for name in kept["test"] if name in tests[-1]},
        **{f"best_test_{name}": best[name] for name in ("accuracy",) if name in best},
        "best_test_loss": best["loss"],
        "best_step": best["step"],
    }


def _result(summary: dict[str, Any]) -> str:
    if "test_accuracy" not in summary:
        return f"test loss {summary['test_loss']:.4f}"
    counts = f"({summary['test_correct']} of {summary['test_count']})"
    return f"test accuracy {summary['test_accuracy']:.2%} {counts}"
