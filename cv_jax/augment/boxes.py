"""Random boxes and their masks."""

import jax
import jax.numpy as jnp

_TRIALS = 10


def random_sides(
    key: jax.Array,
    size: tuple[int, int],
    area: tuple[float, float],
    ratio: tuple[float, float],
    limit: tuple[int, int],
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Draw the sides of a box of random area and aspect: (first, second, found).

    The sides are int32, in pixels. The first of ten draws within `limit` is used; `found` is false
    if no draw fits.

    Args:
      key: random key.
      size: sides of the image.
      area: bounds of the box's share of the image; the share is uniform before rounding.
      ratio: bounds of first / second; the ratio is log-uniform before rounding.
      limit: largest sides allowed.
    """
    share, aspect = jax.random.uniform(key, (2, _TRIALS))
    pixels = (area[0] + share * (area[1] - area[0])) * size[0] * size[1]
    low, high = jnp.log(jnp.asarray(ratio, jnp.float32))
    aspect = jnp.exp(low + aspect * (high - low))
    first = jnp.round(jnp.sqrt(pixels * aspect)).astype(jnp.int32)
    second = jnp.round(jnp.sqrt(pixels / aspect)).astype(jnp.int32)
    fits = (first > 0) & (second > 0) & (first <= limit[0]) & (second <= limit[1])
    chosen = jnp.argmax(fits)
    return first[chosen], second[chosen], fits[chosen]


def random_corner(key: jax.Array, height, width, h, w) -> jax.Array:
    """Draw the uniform (top, left), int32 [2], of an h × w box inside an image."""
    return jax.random.randint(key, (2,), 0, jnp.stack([height - h, width - w]) + 1)


def mask(height: int, width: int, top, left, h, w) -> jax.Array:
    """Mask of a box, bool [H, W, 1]. The box may extend beyond the image."""
    row, column = jnp.arange(height)[:, None, None], jnp.arange(width)[None, :, None]
    return (row >= top) & (row < top + h) & (column >= left) & (column < left + w)


def check_area_and_ratio(
    min_area: float, max_area: float, min_ratio: float, max_ratio: float
) -> None:
    """Raise ValueError unless both intervals are positive and ordered, and areas are at most 1."""
    if not 0 < min_area <= max_area <= 1:
        raise ValueError(f"areas must be 0 < min_area <= max_area <= 1, got {min_area}, {max_area}")
    if not 0 < min_ratio <= max_ratio:
        raise ValueError(f"ratios must be 0 < min_ratio <= max_ratio, got {min_ratio}, {max_ratio}")
