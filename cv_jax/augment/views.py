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
      weights: weight of each image in the average, with sum 1; () for equal weights.
    """

    count: int
    apply: Callable[[np.ndarray], list[np.ndarray]]
    weights: tuple[float, ...] = ()


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


def diagonal_shifts(pixels: int = 1):
    """The image with weight 1/2, and its shifts down-right and up-left with weight 1/4 each.

    Borders are reflected. With `flips` these are the six views of Jordan (2024, arXiv:2404.00498,
    section 3.5).
    """
    if pixels < 1:
        raise ValueError(f"pixels must be at least 1, got {pixels}")

    def apply(image):
        height, width = image.shape[:2]
        around = ((pixels, pixels), (pixels, pixels), (0, 0))
        padded = np.pad(image, around, "reflect")
        return [image, padded[:height, :width], padded[2 * pixels :, 2 * pixels :]]

    return View(3, apply, (0.5, 0.25, 0.25))


def apply_views(operations: tuple[View, ...], image: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return all views of one image, grouped by size.

    Returns:
      uint8 [V, H, W, C] for each size, in order of first appearance.
    """
    groups = _grouped(operations, image)
    return tuple(np.stack([view for view, _ in group]) for group in groups)


def view_weights(operations: tuple[View, ...], shape: tuple[int, int, int]) -> np.ndarray | None:
    """Return the weights of all views of an image of this shape, in the order of `apply_views`.

    Returns:
      float32 [views of all sizes] with sum 1; `None` if they are equal.
    """
    if not any(operation.weights for operation in operations):
        return None
    groups = _grouped(operations, np.zeros(shape, np.uint8))
    return np.array([weight for group in groups for _, weight in group], np.float32)


def _grouped(operations, image) -> list[list[tuple[np.ndarray, float]]]:
    """Views with their weights, grouped by size in order of first appearance."""
    images = [(np.asarray(image), 1.0)]
    for operation in operations:
        weights = operation.weights or (1 / operation.count,) * operation.count
        images = [
            (view, weight * own)
            for image, weight in images
            for view, own in zip(operation.apply(image), weights, strict=True)
        ]
    groups: dict[tuple[int, ...], list[tuple[np.ndarray, float]]] = {}
    for view, weight in images:
        groups.setdefault(view.shape, []).append((view, weight))
    return list(groups.values())


OPERATIONS = {
    "flips": flips,
    "ten_crop": ten_crop,
    "multi_scale": multi_scale,
    "diagonal_shifts": diagonal_shifts,
}
