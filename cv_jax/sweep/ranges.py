"""Ranges of values for the `search()` of a config file."""

import math
from typing import Any, NamedTuple

DIGITS = 4  # significant digits of drawn numbers


class Range(NamedTuple):
    """A range of values: `choices`, or the numbers between `low` and `high`.

    Attributes:
      choices: all values; empty for a range of numbers.
      low: the smallest number.
      high: the largest number.
      log: whether the logarithm is uniformly distributed.
      whole: whether all numbers are integers.
    """

    choices: tuple = ()
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    whole: bool = False

    def at(self, share: float) -> Any:
        """Return the quantile `share`, in [0, 1), of the range."""
        if self.choices:
            return self.choices[int(share * len(self.choices))]
        # Each integer represents the interval ±0.5 around it, so all are equally likely.
        low, high = (self.low - 0.5, self.high + 0.5) if self.whole else (self.low, self.high)
        if self.log:
            return self.plain(math.exp(math.log(low) + share * (math.log(high) - math.log(low))))
        return self.plain(low + share * (high - low))

    def plain(self, number: float) -> float | int:
        """Return the nearest number in the range with `DIGITS` digits, or the nearest integer."""
        if self.whole:
            return min(max(round(number), int(self.low)), int(self.high))
        return min(max(float(f"{number:.{DIGITS}g}"), self.low), self.high)


def choice(*values: Any) -> Range:
    """Range of the given values."""
    if not values:
        raise ValueError("choice() needs values")
    return Range(choices=values)


def integer(low: int, high: int, log: bool = False) -> Range:
    """Range of integers from `low` to `high`, both included."""
    if type(low) is not int or type(high) is not int:
        raise ValueError(f"integer({low}, {high}) needs integers")
    return _checked(Range(low=low, high=high, log=log, whole=True))


def uniform(low: float, high: float) -> Range:
    """Range of numbers from `low` to `high`."""
    return _checked(Range(low=float(low), high=float(high)))


def log_uniform(low: float, high: float) -> Range:
    """Range from `low` to `high` with a uniform logarithm, such as for learning rates."""
    return _checked(Range(low=float(low), high=float(high), log=True))


def _checked(range: Range) -> Range:
    if not range.low < range.high or not math.isfinite(range.high - range.low):
        raise ValueError(f"a range must have low < high, but low={range.low}, high={range.high}")
    if range.log and range.low <= 0:
        raise ValueError(f"a logarithmic range must be positive, but low={range.low}")
    return range
