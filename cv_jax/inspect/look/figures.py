"""Panels and colours that all pictures share.

A panel has at least 300 pixels. Magnitudes use `viridis` and signed values `RdBu_r`, which readers
with any colour vision can tell apart; lines differ in colour (Okabe and Ito's palette) and marker.
"""

import textwrap
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cv_jax.errors import printable

PANEL, DPI = 3.1, 100  # inches; pixels per inch
MAGNITUDE, SIGNED = "viridis", "RdBu_r"
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C8C00")
MARKERS = "osD^vP*X"


def panels(
    rows: int, columns: int, title: str, *, width: float = PANEL, height: float = PANEL
) -> tuple[Figure, np.ndarray]:
    """Return a figure and its axes [rows, columns].

    Args:
      rows: rows of panels.
      columns: columns of panels.
      title: title of the figure, wrapped to its width.
      width: width of a panel in inches.
      height: height of a panel in inches.
    """
    size = columns * width, rows * height + 0.7
    figure = Figure(figsize=size, dpi=DPI, layout="constrained")
    figure.suptitle("\n".join(_wrapped(title, max(int(9.5 * size[0]), 24))), fontsize=13)
    return figure, figure.subplots(rows, columns, squeeze=False)


def show(axis: Axes, image: np.ndarray, title: str = "") -> None:
    """Draw an image [H, W, 1 or 3] in 0…255 or 0…1."""
    image = np.asarray(image)
    if image.dtype != np.uint8:
        image = np.clip(image, 0, 1)
    if image.shape[-1] == 1:
        largest = 255 if image.dtype == np.uint8 else 1
        axis.imshow(image[..., 0], cmap="gray", vmin=0, vmax=largest, interpolation="nearest")
    else:
        axis.imshow(image[..., :3], interpolation="nearest")
    plain(axis, title)


def show_map(
    axis: Axes, values: np.ndarray, title: str = "", *, signed: bool = False, limits=None
) -> object:
    """Draw a map [H, W] of magnitudes, or of signed values with zero in the middle.

    Returns:
      The image, for a colour bar.
    """
    if limits is None:
        largest = float(np.nanmax(np.abs(values))) or 1.0
        limits = (-largest, largest) if signed else (float(np.nanmin(values)), None)
    colours = SIGNED if signed else MAGNITUDE
    drawn = axis.imshow(
        values, cmap=colours, vmin=limits[0], vmax=limits[1], interpolation="nearest"
    )
    plain(axis, title)
    return drawn


def overlay(axis: Axes, image: np.ndarray, values: np.ndarray, title: str = "") -> None:
    """Draw a map [H, W] over a grey image [H, W, C]."""
    grey = np.asarray(image, np.float32).mean(axis=-1) / 255
    axis.imshow(grey, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    height, width = grey.shape
    extent = (-0.5, width - 0.5, height - 0.5, -0.5)
    axis.imshow(values, cmap=MAGNITUDE, alpha=0.6, extent=extent, interpolation="nearest")
    plain(axis, title)


def show_filter(axis: Axes, kernel: np.ndarray, title: str = "") -> None:
    """Draw a filter [h, w, C]: three channels as colours around grey, else signed values."""
    kernel = np.asarray(kernel)
    if kernel.shape[-1] == 3:
        largest = np.abs(kernel).max() or 1.0
        axis.imshow(0.5 + kernel / (2 * largest), interpolation="nearest")
        plain(axis, title)
    else:
        show_map(axis, kernel.mean(axis=-1), title, signed=True)


def plain(axis: Axes, title: str = "", size: int = 11) -> None:
    """Remove the ticks and set the title, shortened to the panel."""
    axis.set(xticks=[], yticks=[])
    if title:
        lines = [line for part in title.split("\n") for line in _wrapped(part, 34)]
        axis.set_title("\n".join(lines[:3]), fontsize=size)


def tile(images: Sequence[np.ndarray], columns: int, fill: float) -> np.ndarray:
    """Return one image of many [h, w, …], separated by lines of one pixel."""
    images = np.asarray(images)
    rows = -(-len(images) // columns)
    height, width = images.shape[1:3]
    sheet = np.full(
        (rows * (height + 1) + 1, columns * (width + 1) + 1, *images.shape[3:]), fill, images.dtype
    )
    for i, image in enumerate(images):
        top, left = 1 + (i // columns) * (height + 1), 1 + (i % columns) * (width + 1)
        sheet[top : top + height, left : left + width] = image
    return sheet


def lines(
    axis: Axes, places: Sequence, curves: dict[str, Sequence[float]], *, legend: bool = True
) -> None:
    """Draw one line with markers for each name; missing values leave gaps."""
    for i, (name, values) in enumerate(curves.items()):
        axis.plot(
            places,
            values,
            color=COLOURS[i % len(COLOURS)],
            marker=MARKERS[i % len(MARKERS)],
            markersize=5,
            label=text(name),
        )
    axis.grid(alpha=0.3)
    if legend and len(curves) > 1:
        axis.legend(fontsize=10)


def text(name: str) -> str:
    """Return a name as plain text for a title, a label or a legend of a figure.

    Control characters are escaped. Dollar signs are too: Matplotlib would read a formula between
    them. A space precedes an underscore: a legend leaves out names that begin with one.
    """
    shown = printable(name).replace("$", r"\$")
    return f" {shown}" if shown.startswith("_") else shown


def shortened(name: str, most: int) -> str:
    """Return a name cut to `most` characters, the last of which is then "…"."""
    return name if len(name) <= most else f"{name[: most - 1]}…"


def _wrapped(name: str, width: int) -> list[str]:
    """Return plain text in lines of at most `width` characters."""
    return [text(line) for line in textwrap.wrap(printable(name), width)]


def legend_below(figure: Figure, axis: Axes, columns: int) -> None:
    """Draw one legend for all panels, below them."""
    handles, names = axis.get_legend_handles_labels()
    columns = min(len(names), columns)
    figure.legend(handles, names, loc="outside lower center", ncols=columns, fontsize=10)


def chosen(count: int, most: int) -> list[int]:
    """Return up to `most` indices, spread evenly from the first to the last."""
    return sorted(set(np.linspace(0, count - 1, min(count, most)).round().astype(int).tolist()))
