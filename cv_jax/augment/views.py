"""Test-time views: several images per example; the classifier's predictions are averaged over them.

Each factory returns a deterministic `View`. Views are the last operations of
`config.eval_preprocess`; the counts of several views multiply.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from cv_jax.augment import host

MOST = 1000  # views per image


class View(NamedTuple):
    """A map of one image to several images.

    Attributes:
      count: number of images.
      apply: `image → images`, uint8 [H, W, C] to a list of uint8 [H', W', C].
    """

    count: int
    apply: Callable[[np.ndarray], list[np.ndarray]]


def flips():
    """The image and its mirror image, left and right."""
    return View(2, lambda image: [image, image[:, ::-1]])


def ten_crop(size: int | tuple[int, int]):
    """The four corners, the centre, and their mirror images (Krizhevsky et al., 2012, section 4.1);
    sides shorter than `size` are padded with zeros."""
    height, width = host._pair(size)
    central = host.central_crop((height, width))

    def apply(image):
        image = host._pad_to(image, height, width)
        bottom, right = image.shape[0] - height, image.shape[1] - width
        corners = [(0, 0), (0, right), (bottom, 0), (bottom, right)]
        crops = [image[top : top + height, left : left + width] for top, left in corners]
        crops.append(central(None, image))
        return crops + [crop[:, ::-1] for crop in crops]

    return View(10, apply)


def multi_scale(sizes: tuple[int, ...], method: str = "bilinear"):
    """The central square at several sizes: resize the shorter side, then crop the longer side."""
    if not 1 <= len(sizes) <= MOST:
        raise ValueError(f"sizes must have 1…{MOST} values, got {len(sizes)}")
    if sum(size * size for size in sizes) > host.SIDE**2:
        raise ValueError(f"the total area of sizes must not exceed {host.SIDE}² pixels")
    operations = [(host.resize_small(size, method), host.central_crop(size)) for size in sizes]
    return View(
        len(sizes), lambda image: [crop(None, resize(None, image)) for resize, crop in operations]
    )


def apply_views(operations: tuple[View, ...], image: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return all views of one image, grouped by size.

    Returns:
      uint8 [V, H, W, C] for each size, in order of first appearance.
    """
    images = [np.asarray(image)]
    for operation in operations:
        images = [view for image in images for view in operation.apply(image)]
    groups: dict[tuple[int, ...], list[np.ndarray]] = {}
    for view in images:
        groups.setdefault(view.shape, []).append(view)
    return tuple(np.stack(group) for group in groups.values())


OPERATIONS = {"flips": flips, "ten_crop": ten_crop, "multi_scale": multi_scale}
