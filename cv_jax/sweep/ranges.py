"""Ranges of values, from which a search draws: what a config file's `search()` is made of."""

import math
from typing import Any, NamedTuple

DIGITS = 4  # significant ones of numbers that are drawn


class Range(NamedTuple):
    """What a value may be: one of `choices`, or else a number between `low` and `high`.

    Attributes:
      choices: all that are possible; empty for numbers.
      low: the smallest.
      high: the largest.
      log: equal ratios are equally likely, not equal differences.
      whole: only integers.
    """

    choices: tuple = ()
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    whole: bool = False

    def at(self, share: float) -> Any:
        """The value below which this share of the range lies; `share` is in 0…1, without 1."""
        if self.choices:
            return self.choices[int(share * len(self.choices))]
        # Each integer has the half around it on either side.
        low, high = (self.low - 0.5, self.high + 0.5) if self.whole else (self.low, self.high)
        if self.log:
            return self.plain(math.exp(math.log(low) + share * (math.log(high) - math.log(low))))
        return self.plain(low + share * (high - low))

    def plain(self, number: float) -> float | int:
        """The nearest number of the range with few digits."""
        if self.whole:
            return min(max(round(number), int(self.low)), int(self.high))
        return min(max(float(f"{number:.{DIGITS}g}"), self.low), self.high)

    def ends(self) -> tuple:
        """The values at the borders: what is possible there mostly is so between."""
        return self.choices or (self.plain(self.low), self.plain(self.high))


def choice(*values: Any) -> Range:
    """One of these."""
    if not values:
        raise ValueError("choice() needs values")
    return Range(choices=values)


def integer(low: int, high: int, log: bool = False) -> Range:
    """A whole number from `low` to `high`, both included."""
    if type(low) is not int or type(high) is not int:
        raise ValueError(f"integer({low}, {high}) needs integers")
    return _checked(Range(low=low, high=high, log=log, whole=True))


def uniform(low: float, high: float) -> Range:
    """A number from `low` to `high`."""
    return _checked(Range(low=float(low), high=float(high)))


def log_uniform(low: float, high: float) -> Range:
    """A number from `low` to `high`, whose logarithm is evenly spread: for learning rates."""
    return _checked(Range(low=float(low), high=float(high), log=True))


def _checked(range: Range) -> Range:
    if not range.low < range.high or not math.isfinite(range.high - range.low):
        raise ValueError(f"a range must go up, from {range.low} to {range.high} it does not")
    if range.log and range.low <= 0:
        raise ValueError(f"a logarithmic range must be positive, {range.low} is not")
    return range
