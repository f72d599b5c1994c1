"""Figures of a sweep, selected by the swept keys.

A swept number, such as depth or patch size, becomes the x axis of curves; swept names, such as
augmentations or models, become bars. Points are means over seeds, error bars standard deviations,
dots single seeds. If the multiply-adds differ, they and the training speed have their own panels.
Of many curves, the means alone are drawn; many names have no figure, only tables.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from cv_jax.inspect.look.figures import shortened, text
from cv_jax.report.settings import Setting, metrics_of, show

MOST_LETTERS = 32  # of a value below a bar; the tables have the whole values
MOST_BARS = 100
MOST_CURVES = 32
MOST_TICKS = 16  # of swept values; more of them do not fit beside each other


def figure(settings: list[Setting]) -> Figure | None:
    """Return the figure of the settings; `None` for one setting, no results, or too many bars."""
    done = [setting for setting in settings if setting.results]
    if len(done) < 2:
        return None
    panels = _panels(done)
    keys = [key for key in done[0].values if len({show(s.values[key]) for s in done}) > 1]
    numeric = [key for key in keys if all(_is_number(s.values[key]) for s in done)]
    axis_key = max(numeric or keys, key=lambda key: len({show(s.values[key]) for s in done}))
    if not numeric and len(done) > MOST_BARS:
        return None
    columns = 2 if len(panels) == 4 else min(len(panels), 3)
    rows = -(-len(panels) // columns)
    many = len({show(s.values[axis_key]) for s in done}) > 6 and not numeric
    size = ((6.4 if many else 4.2) * columns, 3.2 * rows + 0.4)
    picture = Figure(figsize=size, dpi=100, layout="constrained")
    axes = list(picture.subplots(rows, columns, squeeze=False).flat)
    draw = _curves if numeric else _bars
    if numeric and len(_lines(done, axis_key)) > MOST_CURVES:
        draw = _dots
    for axis, (title, value, scale) in zip(axes, panels, strict=False):
        draw(axis, done, axis_key, value)
        axis.set(title=text(title), xlabel=text(axis_key))
        axis.set_yscale(scale)
        axis.grid(alpha=0.3)
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    handles, labels = axes[0].get_legend_handles_labels()
    if len(labels) > 1:
        picture.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 4))
    return picture


def _panels(settings: list[Setting]) -> list[tuple[str, Callable, str]]:
    """Return (title, metrics of a trial → value or `None`, scale) of each panel."""

    def metric(name, change=lambda x: x):
        return lambda metrics: change(metrics[name]) if name in metrics else None

    panels = [
        (
            f"{name.removesuffix('_accuracy').replace('_', ' ')} error, %",
            metric(name, lambda x: 100 * (1 - x)),
            "linear",
        )
        for name in metrics_of(settings, "_accuracy")
    ]
    panels = panels or [
        (name.replace("_", " "), metric(name), "linear") for name in metrics_of(settings, "_loss")
    ]
    if len({r.metrics.get("multiply_adds") for s in settings for r in s.results}) > 1:
        panels.append(("multiply-adds per image", metric("multiply_adds"), "log"))
        panels.append(("images per second, training", metric("images_per_second"), "log"))
    return panels


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _lines(settings, axis_key) -> dict[str, list[Setting]]:
    """Group the settings by the values of all keys but `axis_key`."""
    lines: dict[str, list[Setting]] = {}
    for setting in settings:
        rest = [f"{k}={show(v)}" for k, v in setting.values.items() if k != axis_key]
        lines.setdefault(", ".join(rest), []).append(setting)
    return lines


def _values(setting, value) -> np.ndarray:
    found = [value(result.metrics) for result in setting.results]
    return np.array([x for x in found if x is not None and math.isfinite(x)])


def _curves(axis, settings, axis_key, value) -> None:
    for i, (label, members) in enumerate(_lines(settings, axis_key).items()):
        members = sorted(members, key=lambda s: s.values[axis_key])
        members = [s for s in members if len(_values(s, value))]
        places = [s.values[axis_key] for s in members]
        values = [_values(s, value) for s in members]
        means, deviations = [v.mean() for v in values], [_deviation(v) for v in values]
        axis.errorbar(places, means, deviations, color=f"C{i}", label=text(label), capsize=2)
        if members:
            seeds = np.repeat(places, [len(v) for v in values])
            axis.plot(seeds, np.concatenate(values), ".", color=f"C{i}", alpha=0.4)
    _scale(axis, settings, axis_key)


def _dots(axis, settings, axis_key, value) -> None:
    """Draw the mean of every setting, whatever the values of its other keys."""
    members = [s for s in settings if len(_values(s, value))]
    means = [_values(s, value).mean() for s in members]
    axis.plot([s.values[axis_key] for s in members], means, ".", color="C0", alpha=0.4)
    _scale(axis, settings, axis_key)


def _scale(axis, settings, axis_key) -> None:
    """Set scale and ticks of the swept number."""
    places = sorted({s.values[axis_key] for s in settings})
    if all(p > 0 and math.log2(p).is_integer() for p in places):
        axis.set_xscale("log", base=2)
    if len(places) <= MOST_TICKS:
        axis.set_xticks(places, [text(show(place)) for place in places])
    axis.minorticks_off()


def _bars(axis, settings, axis_key, value) -> None:
    names = list(dict.fromkeys(show(s.values[axis_key]) for s in settings))
    lines = _lines(settings, axis_key)
    width = 0.8 / len(lines)
    for i, (label, members) in enumerate(lines.items()):
        members = [s for s in members if len(_values(s, value))]
        shift = (i - (len(lines) - 1) / 2) * width
        places = [names.index(show(s.values[axis_key])) + shift for s in members]
        values = [_values(s, value) for s in members]
        means, deviations = [v.mean() for v in values], [_deviation(v) for v in values]
        axis.bar(places, means, width, yerr=deviations, color=f"C{i}", label=text(label), capsize=2)
        for place, seeds in zip(places, values, strict=True):
            axis.plot([place] * len(seeds), seeds, ".", color="black", alpha=0.4, markersize=3)
    shown = [text(shortened(name, MOST_LETTERS)) for name in names]
    axis.set_xticks(range(len(names)), shown, rotation=30, ha="right", fontsize=8)


def _deviation(values: np.ndarray) -> float:
    return float(values.std(ddof=1)) if len(values) > 1 else 0.0
