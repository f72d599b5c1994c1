"""Test-time views: several images per example; the classifier's predictions are averaged over them.

Each factory returns a deterministic `View`. Views are the last operations of
`config.eval_preprocess`; the counts of several views multiply. Evaluations apply them in the jitted
step if all of them keep the size of the image; others, which take images of any size, are applied
on the host.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cv_jax.augment import host

MOST = 1000  # views per image


class View(NamedTuple):
    """A map of one image to several images.

    Attributes:
      count: number of images.
      apply: `images → views`, uint8 [..., H, W, C] to a list of uint8 [..., H', W', C].
      weights: weight of each view in the average, with sum 1; () for equal weights.
      on_device: whether `apply` also maps arrays of JAX; the views have the size of the image.
    """

    count: int
    apply: Callable[[np.ndarray], list[np.ndarray]]
    weights: tuple[float, ...] = ()
    on_device: bool = True


@functools.cache  # equal views are one object, so programs with them are shared
def flips():
    """The image and its mirror image, left and right."""
    return View(2, lambda images: [images, images[..., ::-1, :]])


def ten_crop(size: int | tuple[int, int]):
    """The four corners, the centre, and their mirror images (Krizhevsky et al., 2012, section 4.1);
    sides shorter than `size` are padded with zeros."""
    height, width = host._pair(size)

    def apply(images):
        rows, columns = images.shape[-3:-1]
        down, right = max(0, height - rows), max(0, width - columns)
        if down or right:
            around = ((down // 2, down - down // 2), (right // 2, right - right // 2))
            images = _padded(images, around, "constant")
        bottom, right = images.shape[-3] - height, images.shape[-2] - width
        corners = [(0, 0), (0, right), (bottom, 0), (bottom, right)]
        corners.append((round(bottom / 2), round(right / 2)))
        crops = [images[..., top : top + height, x : x + width, :] for top, x in corners]
        return crops + [crop[..., ::-1, :] for crop in crops]

    return View(10, apply, on_device=False)


def multi_scale(sizes: tuple[int, ...], method: str = "bilinear"):
    """The central square at several sizes: resize the shorter side, then crop the longer side."""
    if not 1 <= len(sizes) <= MOST:
        raise ValueError(f"sizes must have 1…{MOST} values, got {len(sizes)}")
    if sum(size * size for size in sizes) > host.SIDE**2:
        raise ValueError(f"the total area of sizes must not exceed {host.SIDE}² pixels")
    operations = [(host.resize_small(size, method), host.central_crop(size)) for size in sizes]

    def apply(images):
        *several, height, width, channels = images.shape
        flat = images.reshape(-1, height, width, channels)
        views = [[crop(None, resize(None, x)) for x in flat] for resize, crop in operations]
        return [np.stack(view).reshape(*several, *view[0].shape) for view in views]

    return View(len(sizes), apply, on_device=False)


@functools.cache
def diagonal_shifts(pixels: int = 1):
    """The image with weight 1/2, and its shifts down-right and up-left with weight 1/4 each.

    Borders are reflected. With `flips` these are the six views of Jordan (2024, arXiv:2404.00498,
    section 3.5).
    """
    if pixels < 1:
        raise ValueError(f"pixels must be at least 1, got {pixels}")

    def apply(images):
        height, width = images.shape[-3:-1]
        padded = _padded(images, ((pixels, pixels),) * 2, "reflect")
        return [
            images,
            padded[..., :height, :width, :],
            padded[..., 2 * pixels :, 2 * pixels :, :],
        ]

    return View(3, apply, (0.5, 0.25, 0.25))


def split(operations: tuple[View, ...]) -> tuple[tuple[View, ...], tuple[View, ...]]:
    """Return `(views on the host, views on the device)`; one of them is empty."""
    if all(operation.on_device for operation in operations):
        return (), operations
    return operations, ()


def apply_views(operations: tuple[View, ...], images: Any) -> tuple[Any, ...]:
    """Return all views of images of one size, grouped by size.

    Args:
      operations: the views.
      images: one image uint8 [H, W, C], or several [..., H, W, C], of NumPy or of JAX.

    Returns:
      uint8 [..., V, H, W, C] for each size, in order of first appearance.
    """
    library = jnp if isinstance(images, jax.Array) else np
    groups = _grouped(operations, library.asarray(images))
    return tuple(library.stack([view for view, _ in group], axis=-4) for group in groups)


def view_weights(operations: tuple[View, ...], shape: tuple[int, int, int]) -> np.ndarray | None:
    """Return the weights of all views of an image of this shape, in the order of `apply_views`.

    Returns:
      float32 [views of all sizes] with sum 1; `None` if they are equal.
    """
    if not any(operation.weights for operation in operations):
        return None
    groups = _grouped(operations, np.zeros(shape, np.uint8))
    return np.array([weight for group in groups for _, weight in group], np.float32)


def _padded(images, around, mode):
    library = jnp if isinstance(images, jax.Array) else np
    return library.pad(images, ((0, 0),) * (images.ndim - 3) + (*around, (0, 0)), mode)


def _grouped(operations, images) -> list[list[tuple[np.ndarray, float]]]:
    """Views with their weights, grouped by size in order of first appearance."""
    views = [(images, 1.0)]
    for operation in operations:
        weights = operation.weights or (1 / operation.count,) * operation.count
        views = [
            (view, weight * own)
            for images, weight in views
            for view, own in zip(operation.apply(images), weights, strict=True)
        ]
    groups: dict[tuple[int, ...], list[tuple[np.ndarray, float]]] = {}
    for view, weight in views:
        groups.setdefault(view.shape, []).append((view, weight))
    return list(groups.values())


OPERATIONS = {
    "flips": flips,
    "ten_crop": ten_crop,
    "multi_scale": multi_scale,
    "diagonal_shifts": diagonal_shifts,
}
