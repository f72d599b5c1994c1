"""Templates of a linear classifier, compared with the average images of the classes.

The score of a class is the inner product of its column of weights with the image. The column,
reshaped to an image, is the template of the class. A component common to all columns changes all
scores equally and no decision, so the mean over the classes is subtracted from templates and
averages.
"""

from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from cv_jax.inspect.look.figures import text


class Templates(NamedTuple):
    """Templates and averages, float64 [classes, H, W, C].

    Attributes:
      templates: columns of weights, their mean over classes subtracted.
      averages: mean image of each class, their mean over classes subtracted.
      images: mean image of each class, in 0…1.
    """

    templates: np.ndarray
    averages: np.ndarray
    images: np.ndarray


def compare(
    kernel: np.ndarray, std: tuple[float, ...], pixels: np.ndarray, labels: np.ndarray
) -> Templates:
    """Return the templates of a classifier and the average images of its classes.

    Args:
      kernel: float [H·W·C, classes]; multiplies normalised pixels.
      std: divisor of the normalisation; one value, or one per channel.
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
    """Plot average image, deviation from the mean of all classes, and template of each class.

    Deviations share one scale, templates another. With one channel, red is above and blue below the
    mean of the classes; with three channels, grey is the mean.
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
                axis.set_title(text(name), fontsize=8)
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
