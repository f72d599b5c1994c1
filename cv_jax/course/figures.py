"""Pictures of results that several chapters draw: curves and bars with every seed."""

from collections.abc import Mapping, Sequence

import numpy as np

from cv_jax.inspect.look.figures import COLOURS, MARKERS, panels, text


def curves(
    title: str,
    places: Sequence[float],
    values: Mapping[str, Sequence[Mapping[int, float]]],
    x: str,
    y: str,
    *,
    logarithmic: bool = False,
):
    """Draw means over seeds as lines, and single seeds as dots.

    Args:
      title: of the figure.
      places: numbers on the horizontal axis.
      values: name of a line → for each place seed → value; empty where nothing was run.
      x: label of the horizontal axis.
      y: label of the vertical axis.
      logarithmic: whether the horizontal axis is logarithmic.
    """
    figure, axes = panels(1, 1, title, width=6.0, height=4.0)
    axis = axes[0, 0]
    for i, (name, own) in enumerate(values.items()):
        colour = COLOURS[i % len(COLOURS)]
        kept = [(p, list(v.values())) for p, v in zip(places, own, strict=True) if v]
        means = [np.mean(v) for _, v in kept]
        axis.plot(
            [p for p, _ in kept], means, color=colour, marker=MARKERS[i % 8], label=text(name)
        )
        for place, seeds in kept:
            axis.plot([place] * len(seeds), seeds, ".", color=colour, alpha=0.5)
    if logarithmic:
        axis.set_xscale("log")
    axis.set_xticks(list(places), [f"{p:g}" for p in places])
    axis.minorticks_off()
    axis.set(xlabel=x, ylabel=y)
    axis.grid(alpha=0.6)
    if len(values) > 1:
        axis.legend(fontsize=10)
    return figure


def bars(title: str, values: Mapping[str, Mapping[int, float]], y: str):
    """Draw the mean over seeds of each setting as a bar, and single seeds as dots.

    Args:
      title: of the figure.
      values: name of a setting → seed → value.
      y: label of the vertical axis.
    """
    figure, axes = panels(1, 1, title, width=max(4.5, 1.0 * len(values)), height=4.0)
    axis = axes[0, 0]
    for i, own in enumerate(values.values()):
        seeds = list(own.values())
        if seeds:
            axis.bar(i, np.mean(seeds), 0.7, color=COLOURS[0], alpha=0.7)
            axis.plot([i] * len(seeds), seeds, ".", color=COLOURS[1])
    axis.set_xticks(range(len(values)), [text(name) for name in values], rotation=25, ha="right")
    axis.set_ylabel(y)
    axis.grid(alpha=0.6, axis="y")
    return figure


def percent(values: Mapping[int, float]) -> dict[int, float]:
    """Return seed → value in percent."""
    return {seed: 100 * value for seed, value in values.items()}


def error(values: Mapping[int, float]) -> dict[int, float]:
    """Return seed → error in percent, for accuracies as shares."""
    return {seed: 100 * (1 - value) for seed, value in values.items()}
