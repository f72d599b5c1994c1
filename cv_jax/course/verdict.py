"""Verdicts: a claim is divided into checks, each a statistic with a threshold fixed before the
runs.

A check compares one number a seed, such as the difference of two accuracies, with its threshold. It
holds if the whole 95 % confidence interval of the mean (Student's t over the seeds) is beyond the
threshold. So a check that does not hold may be wrong, or the seeds may differ too much to tell.
"""

from collections.abc import Mapping
from typing import NamedTuple

from cv_jax.report.statistics import Comparison, compare

HELD, PARTLY, NOT_HELD, OPEN = "held", "held only in part", "not held", "open"


class Check(NamedTuple):
    """A part of a claim and what the runs say about it.

    Attributes:
      statement: the part of the claim.
      statistic: what is measured for each seed.
      threshold: the bound, in words.
      value: mean and 95 % confidence interval, in words; "" without trials.
      held: whether the interval is beyond the threshold; `None` if there are too few seeds.
    """

    statement: str
    statistic: str
    threshold: str
    value: str
    held: bool | None


class Verdict(NamedTuple):
    """The checks of a claim."""

    checks: tuple[Check, ...]

    @property
    def state(self) -> str:
        """HELD if all checks hold, NOT_HELD if none, OPEN if one has no interval, else PARTLY."""
        found = [check.held for check in self.checks]
        if None in found:
            return OPEN
        return HELD if all(found) else PARTLY if any(found) else NOT_HELD

    @property
    def why(self) -> str:
        """The checks in one or two sentences."""
        if self.state == OPEN:
            missing = sum(check.held is None for check in self.checks)
            return f"{missing} of {len(self.checks)} checks have no interval: runs are missing."
        held, failed = (
            "; ".join(f"{c.statement} ({c.value})" for c in self.checks if c.held is wanted)
            for wanted in (True, False)
        )
        parts = [f"It holds that {held}." if held else ""]
        parts.append(f"It was not shown that {failed}." if failed else "")
        return " ".join(filter(None, parts))


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
    held = None if found is None or found.low is None else found.low > threshold
    return Check(
        statement, statistic, f"more than {_number(threshold, unit)}", *_said(found, held, unit)
    )


def less(
    statement: str, statistic: str, values: Mapping[int, float], threshold: float, unit: str = ""
) -> Check:
    """A check that holds if the values are less than the threshold; see `more`."""
    found = compare(values, dict.fromkeys(values, 0.0))
    held = None if found is None or found.high is None else found.high < threshold
    return Check(
        statement, statistic, f"less than {_number(threshold, unit)}", *_said(found, held, unit)
    )


def _said(found: Comparison | None, held: bool | None, unit: str) -> tuple[str, bool | None]:
    if found is None:
        return "", None
    if found.low is None:
        return f"{_number(found.mean, unit)}, one seed", None
    low, high = (_number(x, unit).removesuffix(f" {unit}") for x in (found.low, found.high))
    text = f"{_number(found.mean, unit).removesuffix(f' {unit}')}, {low} to {high}"
    return f"{text} {unit}".strip(), held


def _number(value: float, unit: str) -> str:
    shown = 100 * value if unit in ("points", "%") else value
    size = abs(shown)
    digits = 1 if unit in ("points", "%") or size >= 10 else 2 if size >= 0.1 or not size else 4
    return f"{shown:.{digits}f} {unit}".strip().replace("-", "−")
