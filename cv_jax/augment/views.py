"""Test-time views: several images of one example, over which a classifier's answers are averaged.

Each factory here returns a `View`, which draws nothing. Views stand last in
`config.eval_preprocess`; several in a row multiply.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from cv_jax.augment import host

MOST = 1000  # views of an image


class View(NamedTuple):
    """Makes several images of one.

    Attributes:
      count: how many.
      apply: `image → images`, uint8 [H, W, C] to a list of uint8 [H', W', C].
    """

    count: int
    apply: Callable[[np.ndarray], list[np.ndarray]]


def flips():
    """The image and its mirror image."""
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
    """The central square at each of several sizes: the short side resized, the long one cropped."""
    if not 1 <= len(sizes) <= MOST:
        raise ValueError(f"1…{MOST} sizes are possible, got {len(sizes)}")
    if sum(size * size for size in sizes) > host.SIDE**2:
        raise ValueError(f"together the sizes are larger than one image of side {host.SIDE}")
    operations = [(host.resize_small(size, method), host.central_crop(size)) for size in sizes]
    return View(
        len(sizes), lambda image: [crop(None, resize(None, image)) for resize, crop in operations]
    )


def apply_views(operations: tuple[View, ...], image: np.ndarray) -> tuple[np.ndarray, ...]:
    """All views of one image, those of one size together.

    Returns:
      uint8 [V, H, W, C] for each size, in the order in which the sizes first appear.
    """
    images = [np.asarray(image)]
    for operation in operations:
        images = [view for image in images for view in operation.apply(image)]
    groups: dict[tuple[int, ...], list[np.ndarray]] = {}
    for view in images:
        groups.setdefault(view.shape, []).append(view)
    return tuple(np.stack(group) for group in groups.values())


OPERATIONS = {"flips": flips, "ten_crop": ten_crop, "multi_scale": multi_scale}
