"""Picture of a confusion matrix."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from cv_jax.inspect.look import figures

MOST_NUMBERS = 20  # classes of a matrix with names and numbers


def draw(matrix: np.ndarray, names: Sequence[str] = ()) -> Figure:
    """Draw the share of each predicted class (column) in the images of each class (row).

    Args:
      matrix: int [K, K], numbers of images.
      names: names of the classes. Without them, or with many classes, the axes have numbers of
        classes and the cells are empty.
    """
    named = 0 < len(names) <= MOST_NUMBERS
    side = max(5.0, 0.5 * len(names) + 2) if named else 5.0
    figure = Figure(figsize=(side, side - 0.4), dpi=figures.DPI, layout="constrained")
    axis = figure.subplots()
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    drawn = axis.imshow(shares, cmap=figures.MAGNITUDE, vmin=0, vmax=1, interpolation="nearest")
    number = "" if named else ", number"
    axis.set(xlabel=f"predicted class{number}", ylabel=f"true class{number}")
    if named:
        shown = [figures.text(figures.shortened(name, 16)) for name in names]
        axis.set_xticks(range(len(shown)), shown, rotation=45, ha="right", fontsize=9)
        axis.set_yticks(range(len(shown)), shown, fontsize=9)
        for (row, column), count in np.ndenumerate(matrix):
            if count:
                colour = "black" if shares[row, column] > 0.6 else "white"
                axis.text(column, row, f"{count}", color=colour, ha="center", va="center", size=8)
    figure.colorbar(drawn, ax=axis, label="share of the row", shrink=0.8)
    return figure
