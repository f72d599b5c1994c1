"""Trials grouped by setting; the trials of a setting differ only in the seed."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from cv_jax.report.results import DONE, Result
from cv_jax.report.statistics import Comparison, Spread, compare, spread
from cv_jax.sweep.points import text_of


class Setting(NamedTuple):
    """One setting.

    Attributes:
      values: swept keys without the seed: key → value.
      results: finished trials.
      unfinished: number of unfinished trials.
    """

    values: dict[str, Any]
    results: tuple[Result, ...]
    unfinished: int

    def by_seed(self, metric: str) -> dict[int, float]:
        """Return seed → value, for the trials with this metric."""
        return {r.seed: r.metrics[metric] for r in self.results if metric in r.metrics}

    def spread(self, metric: str) -> Spread | None:
        """Spread over the seeds; `None` if no trial has this metric."""
        values = list(self.by_seed(metric).values())
        return spread(values) if values else None


def group(results: list[Result]) -> list[Setting]:
    """Group trials by setting, in the order of their first trials."""
    groups: dict[tuple, list[Result]] = {}
    for result in results:
        groups.setdefault(tuple(result.values.values()), []).append(result)
    return [
        Setting(
            values=members[0].values,
            results=tuple(r for r in members if r.state == DONE),
            unfinished=sum(r.state != DONE for r in members),
        )
        for members in groups.values()
    ]


def metrics_of(settings: list[Setting], suffix: str) -> list[str]:
    """Return the metrics with this suffix: test split first, then in the order of the lines.

    The training step's own metric, measured on augmented images, is dropped if an evaluation covers
    the training images (a metric whose name contains "train").
    """
    found = dict.fromkeys(
        name
        for setting in settings
        for result in setting.results
        for name in result.metrics
        if name.endswith(suffix) and not name.startswith("best_")
    )
    if any("train" in name and name != f"train{suffix}" for name in found):
        found.pop(f"train{suffix}", None)
    return sorted(found, key=lambda name: not name.startswith("test_"))


def comparisons(
    settings: list[Setting], metric: str
) -> Iterator[tuple[str, Setting, Setting, Comparison]]:
    """Compare, along each key, every setting with the setting that has the key's first value.

    All other keys are equal in both settings.

    Yields:
      The key, the setting, the setting compared with, and the differences.
    """
    by_values = {tuple(s.values.items()): s for s in settings}
    for key in settings[0].values:
        first = settings[0].values[key]
        for setting in settings:
            other = by_values.get(tuple({**setting.values, key: first}.items()))
            if other is None or other is setting:
                continue
            found = compare(setting.by_seed(metric), other.by_seed(metric))
            if found is not None:
                yield key, setting, other, found


def show(value: Any) -> str:
    """Format a swept value."""
    if value is None:
        return "default"
    return f"{value:g}" if isinstance(value, float) else text_of(value) or '""'
