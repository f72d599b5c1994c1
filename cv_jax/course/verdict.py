"""Verdicts: a claim is divided into checks, each a statistic with a threshold fixed before the
runs.

A check compares one number a seed, such as the difference of two accuracies, with its threshold. It
holds if the whole 95 % confidence interval of the mean (Student's t over the seeds) is beyond the
threshold. It is contradicted if the whole interval is on the other side, and else undecided: the
seeds differ too much to tell.
"""

from collections.abc import Mapping
from typing import NamedTuple

from cv_jax.report.statistics import Comparison, compare

HELD, PARTLY, NOT_HELD, OPEN = "held", "held only in part", "not held", "open"
HOLDS, CONTRADICTED, UNDECIDED, NO_INTERVAL = (
    "holds",
    "contradicted",
    "undecided",
    "no interval yet",
)
_WORDS = {
    HOLDS: "It holds that",
    CONTRADICTED: "The runs contradict that",
    UNDECIDED: "It is undecided whether",
}


class Check(NamedTuple):
    """A part of a claim and what the runs say about it.

    Attributes:
      statement: the part of the claim.
      statistic: what is measured for each seed.
      threshold: the bound, in words.
      value: mean and 95 % confidence interval, in words; "" without trials.
      result: HOLDS, CONTRADICTED or UNDECIDED; NO_INTERVAL with fewer than two seeds.
    """

    statement: str
    statistic: str
    threshold: str
    value: str
    result: str


class Verdict(NamedTuple):
    """The checks of a claim."""

    checks: tuple[Check, ...]

    @property
    def state(self) -> str:
        """HELD if all checks hold, NOT_HELD if none, OPEN if one has no interval, else PARTLY."""
        found = [check.result for check in self.checks]
        if NO_INTERVAL in found:
            return OPEN
        return NOT_HELD if HOLDS not in found else HELD if {*found} == {HOLDS} else PARTLY

    @property
    def why(self) -> str:
        """The checks in one to three sentences."""
        if self.state == OPEN:
            missing = sum(check.result == NO_INTERVAL for check in self.checks)
            return f"{missing} of {len(self.checks)} checks have no interval: runs are missing."
        parts = []
        for result, words in _WORDS.items():
            found = [f"{c.statement} ({c.value})" for c in self.checks if c.result == result]
            parts += [f"{words} {'; '.join(found)}."] if found else []
        return " ".join(parts)


def difference(first: Mapping[int, float], second: Mapping[int, float]) -> dict[int, float]:
    """Return seed → first minus second, for the seeds that both have."""
    return {seed: first[seed] - second[seed] for seed in sorted(first.keys() & second.keys())}


def more(
    statement: str, statistic: str, values: Mapping[int, float], threshold: float, unit: str = ""
) -> Check:
    """A check that holds if the values are more than the threshold.

    Args:
      statement: the part of the claim.
      statistic: what the values are.
      values: seed → value.
      threshold: fixed before the runs.
      unit: "points" or "%": the values are shares, shown in percent; or any other unit.
    """
    found = compare(values, dict.fromkeys(values, 0.0))
    bound = f"more than {_number(threshold, unit)}"
    return Check(statement, statistic, bound, _said(found, unit), _result(found, threshold, 1))


def less(
    statement: str, statistic: str, values: Mapping[int, float], threshold: float, unit: str = ""
) -> Check:
    """A check that holds if the values are less than the threshold; see `more`."""
    found = compare(values, dict.fromkeys(values, 0.0))
    bound = f"less than {_number(threshold, unit)}"
    return Check(statement, statistic, bound, _said(found, unit), _result(found, threshold, -1))


def _result(found: Comparison | None, threshold: float, sign: int) -> str:
    if found is None or found.low is None:
        return NO_INTERVAL
    ends = sorted(sign * (end - threshold) for end in (found.low, found.high))
    return HOLDS if ends[0] > 0 else CONTRADICTED if ends[1] < 0 else UNDECIDED


def _said(found: Comparison | None, unit: str) -> str:
    if found is None:
        return ""
    if found.low is None:
        return f"{_number(found.mean, unit)}, one seed"
    low, high = (_number(x, unit).removesuffix(f" {unit}") for x in (found.low, found.high))
    text = f"{_number(found.mean, unit).removesuffix(f' {unit}')}, {low} to {high}"
    return f"{text} {unit}".strip()


def _number(value: float, unit: str) -> str:
    shown = 100 * value if unit in ("points", "%") else value
    size = abs(shown)
    digits = 1 if unit in ("points", "%") or size >= 10 else 2 if size >= 0.1 or not size else 4
    return f"{shown:.{digits}f} {unit}".strip().replace("-", "−")
