"""Display of a running sweep: a live table on a terminal, plain lines elsewhere."""

import shutil
import sys
import time
from collections.abc import Sequence

from cv_jax.errors import printable
from cv_jax.progress import clock
from cv_jax.sweep import folder as folders

LINE_SECONDS = 60.0  # between two lines about running trials, without a terminal


class Board:
    """Prints events and, on a terminal, a table of the running trials below them.

    Attributes:
      total: number of trials of the sweep.
      slots: number of slots.
      states: state → number of trials that have ended in it.
    """

    def __init__(self, total: int, slots: int):
        self.total, self.slots = total, slots
        self.states: dict[str, int] = {}
        self._live = sys.stderr.isatty()
        self._drawn = 0  # lines of the table on the screen
        self._seconds: list[float] = []
        self._started = self._last_line = time.monotonic()

    def started(self, trial, slot) -> None:
        """Display the start of a trial's process."""
        if not self._live:
            self.line(f"{trial.name}: on {slot.name}")

    def ended(self, outcome) -> None:
        """Display the end of a trial."""
        self.states[outcome.state] = self.states.get(outcome.state, 0) + 1
        text = f"{outcome.state}{_result(outcome.trial)}"
        if outcome.seconds:
            text += f" in {clock(outcome.seconds)}"
            self._seconds.append(outcome.seconds)
        elif outcome.state == "done":
            text += ", finished before"
        if outcome.state == "failed":
            text += f" (exit code {outcome.code}), see {outcome.trial.log}"
        self.line(f"[{sum(self.states.values())}/{self.total}] {outcome.trial.name}: {text}")

    def look(self, running, waiting: int) -> None:
        """Display the progress of the running trials; `waiting` others will be started again."""
        now = time.monotonic()
        if not self._live:
            if now - self._last_line >= LINE_SECONDS and running:
                self._last_line = now
                self.line("; ".join(" ".join(filter(None, self._row(one))) for one in running))
            return
        columns, height = shutil.get_terminal_size()
        rows = [("trial", "on", "step", "accuracy", "left"), *map(self._row, running)]
        others = [max(map(len, column)) for column in zip(*rows, strict=True)][1:]
        longest = max(10, columns - 1 - sum(width + 2 for width in others))
        lines = aligned([(_shortened(name, longest), *rest) for name, *rest in rows])
        self._clear()
        drawn = [*lines, self._summary(len(running), waiting, now)][: height - 1]
        sys.stderr.write("".join(line[: columns - 1] + "\n" for line in drawn))
        sys.stderr.flush()
        self._drawn = len(drawn)

    def line(self, text: str) -> None:
        """Print a permanent line above the table."""
        self._clear()
        print(printable(text), file=sys.stderr, flush=True)

    def close(self) -> None:
        """Remove the table."""
        self._clear()

    def _clear(self) -> None:
        if self._drawn:
            sys.stderr.write(f"\x1b[{self._drawn}A\x1b[J")
            self._drawn = 0

    def _summary(self, running: int, waiting: int, now: float) -> str:
        over = sum(self.states.values())
        text = f"{over} of {self.total} over, {running} running, {clock(now - self._started)}"
        if waiting:
            text += f", {waiting} to be started again"
        if self._seconds:
            mean = sum(self._seconds) / len(self._seconds)
            rounds = -(-(self.total - over) // self.slots)
            text += f", about {clock(mean * rounds)} left"
        return text

    def _row(self, one) -> tuple[str, ...]:
        trial = one.trial
        line = folders.newest(trial.workdir / "metrics.jsonl")
        timing = folders.newest(trial.workdir / "timing.jsonl") or {}
        step, left = line["step"] if line else 0, ""
        speed = timing.get("images_per_second")
        if speed and step > one.step:  # the speed belongs to this start
            left = clock((trial.total_steps - step) * trial.batch_size / speed)
        test = folders.newest(trial.workdir / "metrics.jsonl", "test") or {}
        accuracy = f"{test['accuracy']:.2%}" if "accuracy" in test else ""
        return trial.name, one.slot.name, f"{step}/{trial.total_steps}", accuracy, left


def aligned(rows: Sequence[Sequence[str]], left: int | None = None) -> list[str]:
    """Format rows of equal length as lines of aligned columns.

    Args:
      rows: texts; control characters are escaped.
      left: number of left-aligned columns; all by default. The other columns are right-aligned.
    """
    rows = [[printable(text) for text in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    left = len(widths) if left is None else left
    adjust = [str.ljust] * left + [str.rjust] * (len(widths) - left)
    return [
        "  ".join(f(text, n) for f, text, n in zip(adjust, row, widths, strict=True)).rstrip()
        for row in rows
    ]


def _shortened(name: str, width: int) -> str:
    """Remove the middle of a name: the names of points differ at their ends."""
    if len(name) <= width:
        return name
    tail = (width - 1) // 2
    return f"{name[: width - 1 - tail]}…{name[len(name) - tail :]}"


def _result(trial) -> str:
    summary = folders.summary_of(trial.workdir)
    if summary is None:
        return ""
    if "test_accuracy" in summary:
        return f", accuracy {summary['test_accuracy']:.2%}"
    return f", loss {summary['test_loss']:.4f}"
