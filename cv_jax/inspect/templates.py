"""What a linear classifier has learned: one template for each class, beside its average image.

The score of a class is the inner product of its column of weights with the image, so that the
column, laid out as an image, is what the classifier looks for. A column is told from the others
only up to what all have in common, which moves every score alike and no decision: templates and
averages are therefore shown and compared after the mean over the classes is subtracted.
"""

from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure


class Templates(NamedTuple):
    """Templates and averages, both float64 [classes, H, W, C], their mean over classes subtracted.

    Attributes:
      templates: the columns of weights.
      averages: the mean image of each class.
      images: the mean images themselves, on the scale 0…1.
    """

    templates: np.ndarray
    averages: np.ndarray
    images: np.ndarray


def compare(
    kernel: np.ndarray, std: tuple[float, ...], pixels: np.ndarray, labels: np.ndarray
) -> Templates:
    """The templates of a classifier and the averages of its classes.

    Args:
      kernel: float [H·W·C, classes], which multiplies normalised pixels.
      std: what pixels were divided by for that; one value, or one per channel.
      pixels: uint8 [N, H, W, C].
      labels: int [N]; every class has at least one example.
    """
    classes = kernel.shape[1]
    images = np.stack([pixels[labels == k].mean(axis=0) / 255 for k in range(classes)])
    columns = np.asarray(kernel, np.float64).T.reshape(images.shape) / np.asarray(std)
    return Templates(columns - columns.mean(axis=0), images - images.mean(axis=0), images)


def correlations(found: Templates) -> np.ndarray:
    """Cosines between every template (row) and every average (column), [classes, classes]."""

    def unit(images):
        rows = images.reshape(len(images), -1)
        length = np.linalg.norm(rows, axis=1, keepdims=True)
        return rows / np.where(length > 0, length, 1)

    return unit(found.templates) @ unit(found.averages).T


def figure(found: Templates, names: tuple[str, ...], columns: int = 10) -> Figure:
    """Average image, deviation of the average from that of all classes, and template, per class.

    Deviations and templates have one scale each: of one channel, red is more and blue is less than
    the mean of the classes; of three channels, grey is the mean.
    """
    count = len(names)
    columns = min(columns, count)
    blocks = -(-count // columns)
    size = (1.1 * columns + 0.9, 3.6 * blocks)
    picture = Figure(figsize=size, dpi=120, layout="constrained")
    axes = picture.subplots(3 * blocks, columns, squeeze=False)
    kinds = [("average", found.images), ("− mean", found.averages), ("template", found.templates)]
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.set_frame_on(False)
    for i, name in enumerate(names):
        block, column = divmod(i, columns)
        for row, (kind, images) in enumerate(kinds):
            axis = axes[3 * block + row, column]
            if row == 0:
                axis.set_title(name, fontsize=8)
                axis.imshow(images[i], cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            else:
                _show_signed(axis, images[i], np.abs(images).max())
            if column == 0:
                axis.set_ylabel(kind, fontsize=8)
    return picture


def _show_signed(axis, image: np.ndarray, largest: float) -> None:
    scaled = image / (largest or 1)
    if image.shape[-1] == 1:
        axis.imshow(scaled, cmap="RdBu_r", vmin=-1, vmax=1, interpolation="nearest")
    else:
        axis.imshow((1 + scaled) / 2, interpolation="nearest")
