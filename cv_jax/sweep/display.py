"""What a sweep shows: a live table on a terminal, plain lines elsewhere."""

import shutil
import sys
import time

from cv_jax.progress import clock
from cv_jax.sweep import folder as folders

LINE_SECONDS = 60.0  # elsewhere than on a terminal, between lines about running trials


class Board:
    """Lines about what happened and, on a terminal, one about each running trial below them.

    Attributes:
      total: trials of the sweep.
    """

    def __init__(self, total: int, slots: int):
        self.total, self.slots = total, slots
        self.states: dict[str, int] = {}
        self._live = sys.stderr.isatty()
        self._drawn = 0  # lines of the table that stand on the screen
        self._seconds: list[float] = []
        self._started = self._said = time.monotonic()

    def started(self, trial, slot) -> None:
        """A process of the trial has begun."""
        if not self._live:
            self.line(f"{trial.name}: on {slot.name}")

    def ended(self, outcome) -> None:
        """The trial is over."""
        self.states[outcome.state] = self.states.get(outcome.state, 0) + 1
        text = f"{outcome.state}{_reached(outcome.trial)}"
        if outcome.seconds:
            text += f" in {clock(outcome.seconds)}"
            self._seconds.append(outcome.seconds)
        elif outcome.state == "done":
            text += ", as it was before"
        if outcome.state == "failed":
            text += f" (exit code {outcome.code}), see {outcome.trial.log}"
        self.line(f"[{sum(self.states.values())}/{self.total}] {outcome.trial.name}: {text}")

    def look(self, running, waiting: int) -> None:
        """Shows how far the running trials are."""
        now = time.monotonic()
        if not self._live:
            if now - self._said >= LINE_SECONDS and running:
                self._said = now
                self.line("; ".join(" ".join(filter(None, self._row(one))) for one in running))
            return
        columns, height = shutil.get_terminal_size()
        rows = [("trial", "on", "step", "accuracy", "left"), *map(self._row, running)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        # Names give way to what changes.
        widths[0] = max(10, min(widths[0], columns - 1 - sum(w + 2 for w in widths[1:])))
        rows = [(_shortened(name, widths[0]), *rest) for name, *rest in rows]
        lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
        self._clear()
        drawn = [*lines, self._summary(len(running), waiting, now)][: height - 1]
        sys.stderr.write("".join(line[: columns - 1] + "\n" for line in drawn))
        sys.stderr.flush()
        self._drawn = len(drawn)

    def line(self, text: str) -> None:
        """Prints a line that stays, above the table."""
        self._clear()
        print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Removes the table."""
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
        if speed and step > one.step:  # known of this start
            left = clock((trial.total_steps - step) * trial.batch_size / speed)
        test = folders.newest(trial.workdir / "metrics.jsonl", "test") or {}
        accuracy = f"{test['accuracy']:.2%}" if "accuracy" in test else ""
        return trial.name, one.slot.name, f"{step}/{trial.total_steps}", accuracy, left


def _shortened(name: str, width: int) -> str:
    """The name with its middle left out: points differ at their ends."""
    if len(name) <= width:
        return name
    tail = (width - 1) // 2
    return f"{name[: width - 1 - tail]}…{name[len(name) - tail :]}"


def _reached(trial) -> str:
    summary = folders.summary_of(trial.workdir)
    if summary is None:
        return ""
    if "test_accuracy" in summary:
        return f", accuracy {summary['test_accuracy']:.2%}"
    return f", loss {summary['test_loss']:.4f}"
