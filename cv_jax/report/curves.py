"""Curves of one run, or of several runs over each other, as small charts."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure

from cv_jax.inspect.look.figures import COLOURS, text
from cv_jax.report import svg, timing
from cv_jax.report.run_files import RunFiles

MOST_POINTS = 300  # of one line
MOST_CHARTS = 12
SIZE = (4.4, 3.0)  # inches
TOP = 0.96  # upper edge of the axes, as a share of the height
STYLES = ("-", "--", ":", "-.")
LEFT_OUT = ("correct", "count")  # counts of examples are no curves

# Name of a metric → label of its axis, with the unit.
LABELS = {
    "learning_rate": "learning rate",
    "nll": "negative log-likelihood, nats",
    "brier": "Brier score",
    "ece": "calibration error (ECE), %",
}
PERCENT = ("accuracy", "ece", "exact_match")  # ends of names of shares


class Line(NamedTuple):
    """One line of a chart: its label, places, values, number of its colour, and line style."""

    label: str
    steps: np.ndarray
    values: np.ndarray
    colour: int
    style: str
    run: RunFiles


class Chart(NamedTuple):
    """A chart: its title, and the picture."""

    title: str
    picture: Markup


def metrics_of(runs: Iterable[RunFiles]) -> list[str]:
    """Return the names of all metrics with numbers: loss, accuracy, learning rate, then others."""
    known = dict.fromkeys(("loss", "accuracy", "learning_rate"), False)
    for run in runs:
        for line in run.lines:
            if line["split"] != "norms":  # one for each layer
                known.update(dict.fromkeys(line, True))
    left_out = ("step", "split", *LEFT_OUT)
    return [name for name, found in known.items() if found and name not in left_out]


def over_steps(runs: Sequence[RunFiles]) -> list[Chart]:
    """Every metric over steps, and over epochs on the upper axis if all runs have the same."""
    epochs = {run.epoch for run in runs}
    epoch = epochs.pop() if len(epochs) == 1 else None

    def decorate(axis):
        axis.set_xlabel("steps")
        if epoch:
            upper = axis.secondary_xaxis(
                "top", functions=(lambda x: x / epoch, lambda x: x * epoch)
            )
            upper.set_xlabel("epochs")

    names = metrics_of(runs)[:MOST_CHARTS]
    top = 0.83 if epoch else TOP
    return _charts(runs, names, lambda run, steps: steps, decorate, "over steps", top)


def over_time(runs: Sequence[RunFiles]) -> list[Chart]:
    """Loss and accuracy over the time since the start of the first process."""
    clocks = {run.path: timing.clock_of_steps(run.times) for run in runs}
    runs = [run for run in runs if len(clocks[run.path][0])]
    longest = max((clocks[run.path][1][-1] for run in runs), default=0)
    unit, size = next(
        ((u, s) for u, s in (("hours", 3600), ("minutes", 60)) if longest > 3 * s), ("seconds", 1)
    )

    def places(run, steps):
        return np.interp(steps, *clocks[run.path]) / size

    names = [name for name in metrics_of(runs) if name in ("loss", "accuracy")]
    return _charts(runs, names, places, lambda axis: axis.set_xlabel(f"time, {unit}"), "over time")


def throughput(runs: Sequence[RunFiles]) -> Chart | None:
    """Images per second between two timing lines; `None` without two lines."""
    lines = []
    for i, run in enumerate(runs):
        steps, values = timing.speeds(run.times, run.config.get("batch_size") or 0)
        if len(steps) and values.max() > 0:
            lines.append(Line(run.name, steps, values, i, "-", run))
    if not lines:
        return None
    figure, axis = _axes("images per second")
    _draw(axis, lines, lambda run, steps: steps, legend=False)
    axis.set(xlabel="steps", ylim=(0, None))
    return Chart("throughput", svg.to_svg(figure, f"throughput {_names(runs)}"))


def label_of(metric: str) -> str:
    """Return the label of a metric's axis, with its unit."""
    if metric in LABELS:
        return LABELS[metric]
    words = metric.replace("_", " ")
    return f"{words}, %" if metric.endswith(PERCENT) else words


def _charts(
    runs: Sequence[RunFiles],
    names: Sequence[str],
    places: Callable[[RunFiles, np.ndarray], np.ndarray],
    decorate: Callable[[Any], Any],
    what: str,
    top: float = TOP,
) -> list[Chart]:
    charts = []
    for name in names:
        lines = _lines(runs, name)
        if not lines:
            continue
        figure, axis = _axes(label_of(name), top)
        _draw(axis, lines, places, legend=len(runs) == 1)
        values = np.concatenate([line.values for line in lines])
        if name == "loss" and values.min() > 0 and values.max() / values.min() > 30:
            axis.set_yscale("log")
        decorate(axis)
        title = name.replace("_", " ")
        label = f"{title} {what}: {', '.join(dict.fromkeys(line.label for line in lines))}"
        charts.append(Chart(title, svg.to_svg(figure, f"{label} {_names(runs)}")))
    return charts


def _lines(runs: Sequence[RunFiles], metric: str) -> list[Line]:
    """Return one line for each split of each run: colours tell splits apart, or else runs."""
    splits = {line["split"]: None for run in runs for line in run.lines if metric in line}
    # The test split first, so that it has the first colour and the full line.
    order = sorted(splits, key=lambda split: split != "test")
    factor = 100 if metric.endswith(PERCENT) else 1
    lines = []
    for i, run in enumerate(runs):
        for k, split in enumerate(order):
            found = [
                (line["step"], factor * line[metric])
                for line in run.lines
                if line["split"] == split and metric in line
            ]
            if found:
                steps, values = np.array(found, np.float64).T
                style = STYLES[k % len(STYLES)] if len(runs) > 1 else "-"
                colour = i if len(runs) > 1 else k
                lines.append(Line(split, *_thinned(steps, values), colour, style, run))
    return lines


def _thinned(steps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Keep at most `MOST_POINTS` points, evenly spread, with the first and the last."""
    if len(steps) <= MOST_POINTS:
        return steps, values
    kept = np.linspace(0, len(steps) - 1, MOST_POINTS).round().astype(int)
    return steps[kept], values[kept]


def _axes(label: str, top: float = TOP):
    # Fixed margins: a layout from the sizes of all texts takes as long as the drawing.
    figure = Figure(figsize=SIZE)
    axis = figure.subplots(gridspec_kw=dict(left=0.2, right=0.93, bottom=0.16, top=top))
    axis.set_ylabel(text(label))
    axis.grid(alpha=0.6)
    axis.spines[["top", "right"]].set_visible(False)
    return figure, axis


def _draw(axis, lines: Sequence[Line], places: Callable, legend: bool) -> None:
    for line in lines:
        axis.plot(
            places(line.run, line.steps),
            line.values,
            linestyle=line.style,
            color=COLOURS[line.colour % len(COLOURS)],
            marker="." if len(line.steps) < 40 else None,
            label=text(line.label),
        )
    if legend:
        axis.legend(fontsize=9)


def _names(runs: Sequence[RunFiles]) -> str:
    return "of " + ", ".join(run.name for run in runs[:4]) + (", …" if len(runs) > 4 else "")
