"""Tables of a chapter: the settings of a study with confidence intervals, and the checks."""

from collections.abc import Mapping

from cv_jax.course.chapter import Chapter
from cv_jax.course.evidence import Found
from cv_jax.course.verdict import Verdict
from cv_jax.progress import clock
from cv_jax.report.settings import Setting, group, show
from cv_jax.report.statistics import compare
from cv_jax.report.tables import Table, size_in_words


def of_checks(verdict: Verdict) -> Table:
    """One row for each check: what must hold, what was found, and whether it holds."""
    head = ["check", "measured for each seed", "must be", "found, 95 % interval", "result"]
    rows = [
        [check.statement, check.statistic, check.threshold, check.value or "–", check.result]
        for check in verdict.checks
    ]
    return Table(head, rows, 3)


def of_study(chapter: Chapter, found: Found) -> Table | None:
    """One row for each setting: means over seeds with 95 % intervals; `None` without trials."""
    if not found.done:
        return None
    settings = group(found.results)
    names = [n for n in chapter.columns if any(n in r.metrics for r in found.done)]
    keys = list(settings[0].values)
    head = [
        *(key.rpartition(".")[2].replace("_", " ") for key in keys),
        *["parameters", "multiply-adds"],
        *(chapter.columns[name] for name in names),
        *["seeds", "time"],
    ]
    rows = []
    for setting in settings:
        seconds = setting.spread("seconds")
        rows.append(
            [
                *map(show, setting.values.values()),
                *(_size(setting, name) for name in ("parameters", "multiply_adds")),
                *(_interval(setting.by_seed(name), name) for name in names),
                f"{len(setting.results)}/{len(setting.results) + setting.unfinished}",
                clock(seconds.mean) if seconds else "",
            ]
        )
    return Table(head, rows, max(len(keys), 1))


def _size(setting: Setting, name: str) -> str:
    found = setting.spread(name)
    return "" if found is None else size_in_words(found.mean)


def _interval(values: Mapping[int, float], name: str) -> str:
    """Format as `97.2 (96.1 … 98.3) %`; shares are in percent, their intervals within 0 … 100."""
    found = compare(values, dict.fromkeys(values, 0.0))
    if found is None:
        return ""
    share = name.endswith(("accuracy", "share"))
    factor, unit = (100, " %") if share else (1, "")
    numbers = [found.mean] if found.low is None else [found.mean, found.low, found.high]
    if share:  # Student's t knows no bounds
        numbers = [min(max(x, 0.0), 1.0) for x in numbers]
    shown = [_digits(factor * x, share) for x in numbers]
    text = shown[0] if len(shown) == 1 else f"{shown[0]} ({shown[1]} … {shown[2]})"
    return f"{text}{unit}".replace("-", "−")


def _digits(value: float, share: bool) -> str:
    if share:
        return f"{value:.1f}"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
