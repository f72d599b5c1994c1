"""Progress displays with the time left: a bar on a terminal, plain lines elsewhere.

With several processes only process 0 displays progress.
"""

import sys
import time
from collections.abc import Iterable, Sized

from tqdm import tqdm

from cv_jax.devices.processes import is_main
from cv_jax.errors import printable

LINE_SECONDS = 10.0  # between two lines without a terminal


class Progress:
    """Progress display of a training loop.

    Attributes:
      note: text after the speed.
    """

    def __init__(self, total: int, start: int, examples_per_step: int):
        """
        Args:
          total: steps of the whole run.
          start: steps before this start.
          examples_per_step: batch size.
        """
        self.total, self.step, self.per_step = total, start, examples_per_step
        self.note = ""
        self._started, self._last = None, 0.0
        self._first = start
        self.bar = None
        if sys.stderr.isatty() and is_main():
            layout = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]"
            self.bar = tqdm(total=total, initial=start, bar_format=layout, dynamic_ncols=True)

    def images_per_second(self) -> float:
        """Mean speed since the end of the first step, which includes compilation."""
        if self._started is None or self.step == self._first:
            return 0.0
        return (self.step - self._first) * self.per_step / (time.monotonic() - self._started)

    def update(self, step: int) -> None:
        """Display that `step` steps are done."""
        advance, self.step = step - self.step, step
        now = time.monotonic()
        if self._started is None:
            self._started, self._first = now, step
        if self.bar is not None:
            self.bar.set_postfix_str(f"{self.images_per_second():.0f} img/s{self.note}", False)
            self.bar.update(advance)
        elif now - self._last >= LINE_SECONDS:
            self._last = now
            speed = self.images_per_second()
            left = clock((self.total - step) * self.per_step / speed) if speed else "?"
            self.line(
                f"step {step}/{self.total} ({100 * step // max(1, self.total)} %), "
                f"{speed:.0f} img/s, {left} left{self.note}"
            )

    def line(self, text: str) -> None:
        """Print a line above the bar."""
        text = printable(text)
        if self.bar is not None:
            self.bar.write(text, file=sys.stderr)
        elif is_main():
            print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Close the bar."""
        if self.bar is not None:
            self.bar.close()


def counted(loop: Sized, what: str) -> Iterable:
    """Iterate over `loop` and display progress.

    On a terminal a bar appears after two seconds; elsewhere a line is printed every ten seconds.
    """
    if not is_main():
        yield from loop
        return
    if sys.stderr.isatty():
        yield from tqdm(loop, desc=printable(what), delay=2.0, leave=False)
        return
    started = last = time.monotonic()
    for i, item in enumerate(loop):
        now = time.monotonic()
        if now - last >= LINE_SECONDS:
            last = now
            left = clock((now - started) / i * (len(loop) - i)) if i else "?"
            text = printable(f"{what}: {i} of {len(loop)}, {left} left")
            print(text, file=sys.stderr, flush=True)
        yield item


def clock(seconds: float) -> str:
    """Format a duration: 75 → "1:15", 3675 → "1:01:15"."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
