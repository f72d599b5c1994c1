"""Removing a part of an image, on the device: `(key, image) → image`.

Images are float32 [H, W, C], **normalised**: 0 is the mean colour of the dataset and noise of
deviation 1 has its contrast, whatever the dataset is.
"""

import jax
import jax.numpy as jnp

from cv_jax.augment.chance import sometimes

_TRIALS = 10


def random_box(
    key: jax.Array,
    height: int,
    width: int,
    area: tuple[float, float],
    ratio: tuple[float, float],
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """(top, left, height, width), int32, of a random box inside the image.

    The box's share of the image is uniform in `area` and its height / width log-uniform in
    `ratio`, both before sides are rounded to pixels. Of ten such boxes the first that is smaller
    than the image in both directions is placed uniformly; if none is, the box is empty.
    """
    size_key, place_key = jax.random.split(key)
    share, aspect = jax.random.uniform(size_key, (2, _TRIALS))
    share = area[0] + share * (area[1] - area[0])
    low, high = jnp.log(jnp.asarray(ratio, jnp.float32))
    aspect = jnp.exp(low + aspect * (high - low))
    heights = jnp.round(jnp.sqrt(share * height * width * aspect)).astype(jnp.int32)
    widths = jnp.round(jnp.sqrt(share * height * width / aspect)).astype(jnp.int32)
    fits = (heights < height) & (widths < width)
    first = jnp.argmax(fits)
    h, w = jnp.where(fits[first], jnp.stack([heights[first], widths[first]]), 0)
    top, left = jax.random.randint(place_key, (2,), 0, jnp.stack([height - h, width - w]) + 1)
    return top, left, h, w


def inside(height: int, width: int, top, left, h, w) -> jax.Array:
    """Which pixels lie in a box: bool [H, W, 1]. The box may reach beyond the image."""
    row, column = jnp.arange(height)[:, None, None], jnp.arange(width)[None, :, None]
    return (row >= top) & (row < top + h) & (column >= left) & (column < left + w)


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

    Args:
      probability: of erasing anything.
      mode: what the box is filled with: "constant" 0, the mean colour; "channel" one normally
        distributed colour; "pixel" standard normal noise.
      min_area: smallest share of the image; shares are uniform.
      max_area: largest share.
      min_ratio: smallest height / width; log-uniform.
      max_ratio: largest.
      count: number of boxes; each has that fraction of the area.

    Raises:
      ValueError: bounds in the wrong order, an unknown mode, no boxes.
    """
    shapes = {"constant": None, "channel": (1, 1), "pixel": ()}
    if mode not in shapes:
        raise ValueError(f"unknown mode {mode!r}; allowed: {', '.join(shapes)}")
    if not 0 < min_area <= max_area <= 1:
        raise ValueError(f"areas must be 0 < min_area <= max_area <= 1, got {min_area}, {max_area}")
    if not 0 < min_ratio <= max_ratio:
        raise ValueError(f"ratios must be 0 < min_ratio <= max_ratio, got {min_ratio}, {max_ratio}")
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    area = min_area / count, max_area / count

    def fill(key, shape):
        if mode == "constant":
            return 0.0
        return jax.random.normal(key, shape if mode == "pixel" else (1, 1, shape[-1]))

    def apply(key, image):
        for box_key in jax.random.split(key, count):
            box_key, fill_key = jax.random.split(box_key)
            box = random_box(box_key, *image.shape[:2], area, (min_ratio, max_ratio))
            erased = inside(*image.shape[:2], *box)
            image = jnp.where(erased, fill(fill_key, image.shape), image)
        return image

    return sometimes(probability, apply)


def cutout(size: int, probability: float = 1.0):
    """Sets a square to the mean colour (DeVries and Taylor, 2017, arXiv:1708.04552).

    Its centre is uniform over the pixels, so that it may reach over the border, where it is cut.

    Args:
      size: side of the square in pixels.
      probability: of doing so.
    """
    if size < 1:
        raise ValueError(f"size must be positive, got {size}")

    def apply(key, image):
        height, width, _ = image.shape
        y, x = jax.random.randint(key, (2,), 0, jnp.array([height, width]))
        square = inside(height, width, y - size // 2, x - size // 2, size, size)
        return jnp.where(square, 0.0, image)

    return sometimes(probability, apply)


OPERATIONS = {"erase": erase, "cutout": cutout}
