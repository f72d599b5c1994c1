"""Means over seeds, and differences between settings with the same seeds."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import special


class Spread(NamedTuple):
    """Count, mean and sample standard deviation (n − 1; `None` for one value) of some values."""

    count: int
    mean: float
    deviation: float | None


class Comparison(NamedTuple):
    """Differences between two settings, paired by seed.

    Attributes:
      count: number of common seeds.
      mean: of the differences.
      deviation: sample standard deviation of the differences; `None` for one seed.
      low, high: 95 % confidence interval of the mean, by Student's t; `None` for one seed.
      p: two-sided p value of the paired t test; `None` for one seed or if all differences are
        equal.
    """

    count: int
    mean: float
    deviation: float | None
    low: float | None
    high: float | None
    p: float | None


def spread(values: Sequence[float]) -> Spread:
    """Return the spread of values.

    Raises:
      ValueError: there are no values.
    """
    if not len(values):
        raise ValueError("no values")
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return Spread(len(values), float(np.mean(values)), deviation)


def compare(first: Mapping[int, float], second: Mapping[int, float]) -> Comparison | None:
    """Return first minus second over the common seeds; `None` without a common seed.

    Args:
      first: seed → value.
      second: seed → value.
    """
    seeds = sorted(first.keys() & second.keys())
    if not seeds:
        return None
    count, mean, deviation = spread([first[seed] - second[seed] for seed in seeds])
    if deviation is None:
        return Comparison(count, mean, None, None, None, None)
    error = deviation / math.sqrt(count)
    # Student's t: `scipy.stats` has it too, but takes half a second to import.
    half = float(special.stdtrit(count - 1, 0.975)) * error
    p = float(2 * special.stdtr(count - 1, -abs(mean) / error)) if error else None
    return Comparison(count, mean, deviation, mean - half, mean + half, p)
