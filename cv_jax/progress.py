"""Progress of long work: a bar on a terminal, plain lines elsewhere, with the time left.

Of several processes only the first shows any.
"""

import sys
import time
from collections.abc import Iterable, Sized

from tqdm import tqdm

from cv_jax.devices.processes import is_main


class Progress:
    """Counts steps and shows how far the work is.

    Elsewhere than on a terminal a line is printed at most every `line_seconds`.
    """

    def __init__(self, total: int, start: int, examples_per_step: int, line_seconds: float = 10.0):
        self.total, self.step, self.per_step = total, start, examples_per_step
        self.line_seconds = line_seconds
        self.note = ""
        self._started, self._last = None, 0.0
        self._first = start
        self.bar = None
        if sys.stderr.isatty() and is_main():
            layout = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]"
            self.bar = tqdm(total=total, initial=start, bar_format=layout, dynamic_ncols=True)

    def images_per_second(self) -> float:
        """Since the first step after the start, which compiles."""
        if self._started is None or self.step == self._first:
            return 0.0
        return (self.step - self._first) * self.per_step / (time.monotonic() - self._started)

    def update(self, step: int) -> None:
        """Says that `step` steps are done."""
        advance, self.step = step - self.step, step
        now = time.monotonic()
        if self._started is None:
            # The first step compiles: speed and time left are reckoned from its end on.
            self._started, self._first = now, step
        if self.bar is not None:
            self.bar.set_postfix_str(f"{self.images_per_second():.0f} img/s{self.note}", False)
            self.bar.update(advance)
        elif now - self._last >= self.line_seconds:
            self._last = now
            speed = self.images_per_second()
            left = clock((self.total - step) * self.per_step / speed) if speed else "?"
            self.line(
                f"step {step}/{self.total} ({100 * step // max(1, self.total)} %), "
                f"{speed:.0f} img/s, {left} left{self.note}"
            )

    def line(self, text: str) -> None:
        """Prints a line without disturbing the bar."""
        if self.bar is not None:
            self.bar.write(text, file=sys.stderr)
        elif is_main():
            print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Ends the bar."""
        if self.bar is not None:
            self.bar.close()


def counted(loop: Sized, what: str) -> Iterable:
    """Iterates over `loop` with a bar that shows on a terminal if it takes more than two seconds,
    and with a line elsewhere."""
    if not is_main():
        yield from loop
        return
    if sys.stderr.isatty():
        yield from tqdm(loop, desc=what, delay=2.0, leave=False)
        return
    started = said = time.monotonic()
    for i, item in enumerate(loop):
        now = time.monotonic()
        if now - said >= 10:
            said = now
            left = clock((now - started) / i * (len(loop) - i))
            print(f"{what}: {i} of {len(loop)}, {left} left", file=sys.stderr, flush=True)
        yield item


def clock(seconds: float) -> str:
    """75 → "1:15", 3675 → "1:01:15"."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
