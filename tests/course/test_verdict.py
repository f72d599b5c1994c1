"""Checks against intervals computed by hand, and the states of verdicts."""

import math

import numpy as np
import pytest
from scipy import stats

from cv_jax.course.verdict import (
    CONTRADICTED,
    HELD,
    HOLDS,
    NO_INTERVAL,
    NOT_HELD,
    OPEN,
    PARTLY,
    UNDECIDED,
    Check,
    Verdict,
    difference,
    less,
    more,
)

VALUES = {0: 0.10, 1: 0.14, 2: 0.12}


def interval(values):
    values = np.array(list(values))
    half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values))
    return values.mean() - half, values.mean() + half


def test_a_check_holds_only_if_the_whole_interval_is_beyond_the_threshold():
    low, high = interval(VALUES.values())
    for threshold, over, under in (
        (low - 1e-9, HOLDS, CONTRADICTED),
        (low + 1e-9, UNDECIDED, UNDECIDED),
        (high - 1e-9, UNDECIDED, UNDECIDED),
        (high + 1e-9, CONTRADICTED, HOLDS),
    ):
        assert more("", "", VALUES, threshold).result == over
        assert less("", "", VALUES, threshold).result == under


def test_the_interval_and_the_threshold_are_in_words():
    check = more("depth pays", "difference", VALUES, 0.05, "points")
    low, high = interval(VALUES.values())
    assert check.value == f"12.0, {100 * low:.1f} to {100 * high:.1f} points"
    assert check.threshold == "more than 5.0 points"
    assert less("", "", {0: -3.0, 1: -3.0}, 1.0).value == "−3.00, −3.00 to −3.00"


def test_too_few_seeds_are_open():
    for values in ({}, {0: 0.5}):
        assert more("", "", values, 0.0).result == NO_INTERVAL
        assert less("", "", values, 0.0).result == NO_INTERVAL
    assert "one seed" in more("", "", {0: 0.5}, 0.0).value


def test_differences_are_paired_by_seed():
    assert difference({0: 3.0, 1: 5.0, 4: 1.0}, {1: 2.0, 0: 4.0, 2: 9.0}) == {0: -1.0, 1: 3.0}


@pytest.mark.parametrize(
    ("results", "state"),
    [
        ((HOLDS, HOLDS), HELD),
        ((CONTRADICTED, UNDECIDED), NOT_HELD),
        ((UNDECIDED, UNDECIDED), NOT_HELD),
        ((HOLDS, UNDECIDED), PARTLY),
        ((CONTRADICTED, HOLDS), PARTLY),
        ((HOLDS, NO_INTERVAL), OPEN),
        ((NO_INTERVAL, CONTRADICTED), OPEN),
    ],
)
def test_states(results, state):
    checks = (Check(f"part {i}", "", "", f"value {i}", x) for i, x in enumerate(results))
    assert Verdict(tuple(checks)).state == state


def test_the_verdict_says_which_checks_hold():
    results = HOLDS, UNDECIDED, CONTRADICTED, HOLDS
    checks = (Check(f"part {i}", "", "", f"value {i}", x) for i, x in enumerate(results))
    assert Verdict(tuple(checks)).why == (
        "It holds that part 0 (value 0); part 3 (value 3). The runs contradict that part 2 "
        "(value 2). It is undecided whether part 1 (value 1)."
    )
