"""Numbers in the tables of a chapter."""

import numpy as np
from scipy import stats

from cv_jax.course import tables


def test_the_interval_of_a_share_stays_within_its_bounds():
    values = np.array([0.99, 1.0, 0.95])
    low, high = stats.t.interval(0.95, 2, values.mean(), stats.sem(values))
    assert low > 0
    assert high > 1
    found = tables._interval(dict(enumerate(values)), "test_accuracy")
    assert found == f"98.0 ({100 * low:.1f} … 100.0) %"
    assert tables._interval({0: 0.01, 1: 0.2}, "kept_share").startswith("10.5 (0.0 … 100.0")


def test_other_numbers_keep_their_interval():
    low, high = stats.t.interval(0.95, 1, 15.0, 5.0)
    assert tables._interval({0: 10.0, 1: 20.0}, "steps") == f"15 (−{-low:.3g} … {high:.3g})"
