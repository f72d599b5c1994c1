"""Erasing of image regions, on the device: `(key, image) → image`.

Images are float32 [H, W, C], **normalised**: 0 is the mean colour of the dataset, and noise of
standard deviation 1 has the dataset's contrast.
"""

import jax
import jax.numpy as jnp

from cv_jax.augment import boxes
from cv_jax.augment.chance import sometimes


def erase(
    probability: float = 0.25,
    mode: str = "pixel",
    min_area: float = 0.02,
    max_area: float = 1 / 3,
    min_ratio: float = 0.3,
    max_ratio: float = 1 / 0.3,
    count: int = 1,
):
    """Random erasing (Zhong et al., 2017, arXiv:1708.04896), as in timm.

    Ten box sizes are drawn. The first box smaller than the image in both directions is placed
    uniformly; if no box fits, nothing is erased.

    Args:
      probability: that an image is erased.
      mode: the filling of a box: "constant" is 0, the mean colour; "channel" is one normally
        distributed colour; "pixel" is standard normal noise.
      min_area: smallest share of the image; shares are uniform.
      max_area: largest share.
      min_ratio: smallest height / width; log-uniform.
      max_ratio: largest height / width.
      count: number of boxes; the area bounds of each box are divided by `count`.

    Raises:
      ValueError: bounds are in the wrong order, the mode is unknown, or `count` is outside 1…100.
    """
    modes = ("constant", "channel", "pixel")
    if mode not in modes:
        raise ValueError(f"unknown mode {mode!r}; allowed: {', '.join(modes)}")
    boxes.check_area_and_ratio(min_area, max_area, min_ratio, max_ratio)
    if not 1 <= count <= 100:
        raise ValueError(f"count must be in 1…100, got {count}")
    area = min_area / count, max_area / count

    def fill(key, shape):
        if mode == "constant":
            return 0.0
        return jax.random.normal(key, shape if mode == "pixel" else (1, 1, shape[-1]))

    def apply(key, image):
        height, width, _ = image.shape
        for box_key in jax.random.split(key, count):
            side_key, place_key, fill_key = jax.random.split(box_key, 3)
            h, w, found = boxes.random_sides(
                side_key, (height, width), area, (min_ratio, max_ratio), (height - 1, width - 1)
            )
            h, w = jnp.where(found, jnp.stack([h, w]), 0)
            top, left = boxes.random_corner(place_key, height, width, h, w)
            erased = boxes.mask(height, width, top, left, h, w)
            image = jnp.where(erased, fill(fill_key, image.shape), image)
        return image

    return sometimes(probability, apply)


def cutout(size: int, probability: float = 1.0):
    """Set a square to the mean colour (DeVries and Taylor, 2017, arXiv:1708.04552).

    The centre is uniform over the pixels; the square is clipped at the border.

    Args:
      size: side of the square in pixels.
      probability: that the operation is applied to an image.
    """
    if size < 1:
        raise ValueError(f"size must be positive, got {size}")

    def apply(key, image):
        height, width, _ = image.shape
        y, x = jax.random.randint(key, (2,), 0, jnp.array([height, width]))
        square = boxes.mask(height, width, y - size // 2, x - size // 2, size, size)
        return jnp.where(square, 0.0, image)

    return sometimes(probability, apply)


OPERATIONS = {"erase": erase, "cutout": cutout}
