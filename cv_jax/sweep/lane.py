"""One of the trials that are trained together: what it leaves on disk."""

import math
from collections.abc import Callable
from pathlib import Path

import ml_collections

from cv_jax.evaluation.metrics import quality
from cv_jax.run import json_files
from cv_jax.run import workdir as records
from cv_jax.run.checkpoint import Checkpoints
from cv_jax.run.writers import open_writers
from cv_jax.sweep import folder
from cv_jax.training import loop
from cv_jax.training.experiment import Experiment


class Lane:
    """One trial, and what it leaves on disk.

    Attributes:
      workdir: its run directory.
      config: its own.
      parts: its experiment, on one device.
      code: how it ended; until then none.
      best: quality of its best evaluation.
    """

    def __init__(self, workdir: Path, config: ml_collections.ConfigDict, parts: Experiment):
        self.workdir, self.config, self.parts = workdir, config, parts
        self.code, self.best = None, -math.inf
        keep = config.checkpoint
        # Two, so that after a kill among the saves of a step there is one that all trials have.
        self.checkpoints = Checkpoints(
            workdir / "checkpoints", max(2, keep.keep_last), keep.keep_best
        )

    def finished(self) -> bool:
        """Whether it was trained to its end before; its code then says so."""
        summary = folder.summary_of(self.workdir)
        if summary and summary["step"] == self.parts.total_steps:
            self.code = loop.DONE
        return self.code == loop.DONE

    def start(self, step: int, weights: str | None, say: Callable[[str], None]) -> None:
        """Begins, or goes on, after so many updates."""
        records.repair(self.workdir)
        text = self.checkpoints.lines(step) if step else ""
        self.lines = json_files.Lines(self.workdir / "metrics.jsonl", text)
        records.record_start(self.workdir, self.config, self.parts.fingerprint, step, weights)
        kept = self.lines.values()
        tests = (quality(line) for line in kept if line["split"] == "test")
        self.best = max(tests, default=-math.inf)
        self.writers = open_writers(self.config, self.workdir, kept, say)

    def write(self, step: int, split: str, metrics: dict[str, float]) -> None:
        """Adds a line to its metrics."""
        line = {"step": step, "split": split, **metrics}
        self.lines.append(line)
        self.writers.write(line)

    def close(self, code: int) -> None:
        """Ends it with that code."""
        self.code = code
        self.checkpoints.close()
        self.writers.close(code)

    def summarise(self, sizes: tuple[int, int]) -> None:
        """Writes its summary; see `describe.sizes`."""
        self.lines.restore()
        steps = self.parts.total_steps
        summary = loop.summarise(self.config, self.lines.values(), steps, *sizes)
        json_files.write_record(self.workdir / "summary.json", summary)
