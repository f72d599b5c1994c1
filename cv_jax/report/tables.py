"""Tables of a sweep: aligned Markdown, and CSV."""

import csv
import io
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from cv_jax.errors import printable
from cv_jax.progress import clock
from cv_jax.report import lineage
from cv_jax.report.results import Result
from cv_jax.report.settings import Setting, comparisons, metrics_of, show
from cv_jax.report.statistics import Spread
from cv_jax.sweep.points import Sweep


class Table(NamedTuple):
    """Cells of a table as text; the first `left` columns are left-justified."""

    head: list[str]
    rows: list[list[str]]
    left: int

    def markdown(self) -> str:
        """Return an aligned Markdown table."""
        return aligned(self.head, self.rows, self.left)


def aligned(head: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> str:
    """Return a Markdown table with aligned columns; the first `left` are left-justified."""
    # An unescaped bar, as in augmentation strings, would end the cell.
    head, *rows = [[printable(cell).replace("|", r"\|") for cell in row] for row in (head, *rows)]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]

    def line(cells):
        placed = [
            cell.ljust(width) if i < left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return f"| {' | '.join(placed)} |"

    rule = ["-" * w if i < left else "-" * (w - 1) + ":" for i, w in enumerate(widths)]
    return "\n".join([line(head), line(rule), *map(line, rows)])


def of_settings(settings: list[Setting]) -> Table:
    """One row per setting: means and standard deviations over its seeds."""
    keys = list(settings[0].values)
    historical = keys == ["model"]
    accuracies = metrics_of(settings, "_accuracy")
    measured = accuracies or metrics_of(settings, "_loss")
    head = [
        *keys,
        *(["year", "receptive field"] if historical else []),
        "parameters",
        "mult-adds",
        *(name.removesuffix("_accuracy").replace("_", " ") for name in measured),
        "best",
        "seeds",
        "time",
        "images/s",
    ]
    rows = []
    for setting in lineage.by_year(settings) if historical else settings:
        seconds, speed = setting.spread("seconds"), setting.spread("images_per_second")
        rows.append(
            [
                *map(show, setting.values.values()),
                *(lineage.facts(setting) if historical else []),
                _size(setting.spread("parameters")),
                _size(setting.spread("multiply_adds")),
                *(_mean(setting.spread(name), percent=bool(accuracies)) for name in measured),
                _best(setting, measured, bool(accuracies)),
                f"{len(setting.results)}/{len(setting.results) + setting.unfinished}",
                clock(seconds.mean) if seconds else "",
                f"{speed.mean:,.0f}" if speed else "",
            ]
        )
    return Table(head, rows, len(keys))


def of_comparisons(settings: list[Setting], metric: str) -> Table | None:
    """Differences along each swept key, paired by seed; `None` without a comparison."""
    rows, percent = [], metric.endswith("_accuracy")
    factor, unit = (100, " %") if percent else (1, "")
    for key, setting, other, found in comparisons(settings, metric):
        rest = {k: v for k, v in setting.values.items() if k != key}
        interval = (
            ""
            if found.low is None
            else f"{factor * found.low:+.2f} … {factor * found.high:+.2f}{unit}"
        )
        rows.append(
            [
                f"{key}: {show(setting.values[key])} − {show(other.values[key])}",
                ", ".join(f"{k}={show(v)}" for k, v in rest.items()),
                str(found.count),
                _mean(Spread(found.count, found.mean, found.deviation), percent, sign=True),
                interval,
                "" if found.p is None else _probability(found.p),
            ]
        )
    head = ["difference", "at", "seeds", metric.replace("_", " "), "95 % interval", "p"]
    return Table(head, rows, 2) if rows else None


def _probability(p: float) -> str:
    return f"{p:.3f}" if p >= 0.0005 else "< 0.001"


def of_unfinished(results: list[Result]) -> list[str]:
    """Return `name: state` of each trial that is not done."""
    return [f"{result.name}: {result.state}" for result in results if not result.metrics]


def settings_csv(settings: list[Setting]) -> str:
    """One row per setting, with unrounded numbers."""
    names = list(dict.fromkeys(n for s in settings for r in s.results for n in r.metrics))
    keys = list(settings[0].values)
    suffixes = ("mean", "deviation", "best")
    head = [*keys, "seeds", "unfinished", *(f"{name}_{s}" for name in names for s in suffixes)]
    rows = []
    for setting in settings:
        numbers = []
        for name in names:
            found, values = setting.spread(name), setting.by_seed(name).values()
            best = None
            if found:
                best = min(values) if name.endswith(("loss", "seconds")) else max(values)
            numbers += [found and found.mean, found and found.deviation, best]
        counts = [len(setting.results), setting.unfinished]
        rows.append([*setting.values.values(), *counts, *numbers])
    return _csv(head, rows)


def trials_csv(sweep: Sweep, results: list[Result], folder: Path) -> str:
    """One row per trial, with its command."""
    keys = list(results[0].values)
    names = list(dict.fromkeys(name for result in results for name in result.metrics))
    head = ["trial", *keys, "seed", "state", *names, "commit", "command"]
    rows = []
    for point, result in zip(sweep.points, results, strict=True):
        command = ["python", "launch.py", *sweep.command(point, folder / point.name)]
        values = [*result.values.values(), result.seed, result.state]
        numbers = [result.metrics.get(name) for name in names]
        commit = result.start.get("commit")
        rows.append([result.name, *values, *numbers, commit, shlex.join(command)])
    return _csv(head, rows)


def _csv(head, rows) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([head, *rows])
    return text.getvalue()


def _mean(found: Spread | None, percent: bool, sign: bool = False) -> str:
    """Format as `97.21 ± 0.30 %`."""
    if found is None:
        return ""
    factor, digits = (100, 2) if percent else (1, 4)
    text = f"{factor * found.mean:{'+' if sign else ''}.{digits}f}"
    if found.deviation is not None:
        text += f" ± {factor * found.deviation:.{digits}f}"
    return text + (" %" if percent else "")


def _best(setting: Setting, measured: list[str], percent: bool) -> str:
    values = setting.by_seed(measured[0]).values() if measured else ()
    if not values:
        return ""
    return f"{100 * max(values):.2f} %" if percent else f"{min(values):.4f}"


def _size(found: Spread | None) -> str:
    return "" if found is None else size_in_words(found.mean)


def size_in_words(number: float) -> str:
    """Format with four digits and a unit: `4.089 G`."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:#.4g} {unit}"
    return f"{number:.0f}"
