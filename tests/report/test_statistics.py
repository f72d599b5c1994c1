"""Means, deviations and paired comparisons, against SciPy, NumPy and hand calculations."""

import numpy as np
import pytest
from scipy import stats

from cv_jax.report.statistics import compare, spread


def test_spread_by_hand():
    assert spread([0.5]) == (1, 0.5, None)
    # Squared deviations 4, 0, 4: their sum over n − 1 = 2 is 4.
    assert spread([1, 3, 5]) == (3, 3.0, 2.0)
    with pytest.raises(ValueError, match="no values"):
        spread([])


def test_comparison_by_hand():
    """Differences 1, 2, 3: mean 2, deviation 1, error 1/√3, t = 2√3 at 2 degrees of freedom."""
    found = compare({0: 2.0, 1: 4.0, 2: 6.0, 9: 99.0}, {0: 1.0, 1: 2.0, 2: 3.0, 8: -99.0})
    assert found[:3] == (3, 2.0, 1.0)
    half = 4.302652729911275 / np.sqrt(3)  # the 97.5 % quantile of t, from a table
    np.testing.assert_allclose((found.low, found.high), (2 - half, 2 + half), rtol=1e-9)
    # For 2 degrees of freedom P(|T| > t) = 1 − t/√(2 + t²).
    t = 2 * np.sqrt(3)
    assert found.p == pytest.approx(1 - t / np.sqrt(2 + t * t))


@pytest.mark.parametrize("count", [2, 5, 20])
def test_comparison_is_scipys_paired_t_test(count):
    rng = np.random.default_rng(count)
    first, second = rng.standard_normal((2, count)) + [[0.3], [0.0]]
    found = compare(dict(enumerate(first)), dict(enumerate(second)))
    expected = stats.ttest_rel(first, second)
    assert found.p == pytest.approx(expected.pvalue)
    interval = expected.confidence_interval(0.95)
    np.testing.assert_allclose((found.low, found.high), interval)
    assert found.deviation == pytest.approx(np.std(first - second, ddof=1))


def test_too_few_seeds_to_compare():
    assert compare({0: 1.0}, {1: 1.0}) is None
    assert compare({0: 1.0}, {0: 3.0}) == (1, -2.0, None, None, None, None)
    # Equal differences have deviation 0 and no p value.
    assert compare({0: 1.0, 1: 2.0}, {0: 0.0, 1: 1.0}) == (2, 1.0, 0.0, 1.0, 1.0, None)
