"""Affine maps of images in integer grey levels, sampled like Pillow's `Image.transform`.

Coordinates and weights are fixed-point integers. Integer sums are exact, so the pixels do not
depend on how a compiler fuses or reorders operations.
"""

import jax
import jax.numpy as jnp
import numpy as np

METHODS = ("nearest", "bilinear", "bicubic")
_PHASE_BITS = 10  # fractional bits of a position between two pixels


def affine(
    levels: jax.Array, matrix: jax.Array, method: str, fill: int | tuple[int, ...] = 0
) -> jax.Array:
    """Return the image whose pixel (x, y) is the input at (a·x + b·y + c, d·x + e·y + f).

    Pixel centres have half-integer coordinates. "bilinear" and "bicubic" differ from Pillow by at
    most one grey level; "nearest" may differ within 1e-3 of the border between two pixels.

    Args:
      levels: int32 [H, W, C] in 0…255.
      matrix: float32 [6], (a, b, c, d, e, f), a and e at most 1, b and d at most 1, c and f at
        most one image size in magnitude.
      method: "nearest", "bilinear" or "bicubic" (Pillow's, whose parameter is −1).
      fill: the level, or one level per channel, outside the input.

    Raises:
      ValueError: the number of levels in `fill` differs from the number of channels.
    """
    height, width, channels = levels.shape
    if np.ndim(fill) and len(fill) != channels:
        raise ValueError(f"fill={fill} has {len(fill)} values, the image has {channels} channels")
    bits = 30 - int(np.ceil(np.log2(2 * max(height, width))))
    half = 1 << (bits - 1)
    a, b, c, d, e, f = jnp.round(matrix * half).astype(jnp.int32)
    column, row = 2 * jnp.arange(width) + 1, 2 * jnp.arange(height)[:, None] + 1
    x, y = a * column + b * row + 2 * c, d * column + e * row + 2 * f
    inside = (x >= 0) & (x < width << bits) & (y >= 0) & (y < height << bits)

    columns, rows = _taps(x, bits, method), _taps(y, bits, method)
    columns = [(jnp.clip(place, 0, width - 1), weight) for place, weight in columns]
    rows = [(jnp.clip(place, 0, height - 1) * width, weight) for place, weight in rows]
    pixels = levels.reshape(-1, channels)
    total = 0
    for start, down in rows:
        for place, across in columns:
            pixel = pixels.at[start + place].get(mode="promise_in_bounds")
            total += jnp.expand_dims(down * across, -1) * pixel
    sampled = jnp.clip(total >> 2 * _WEIGHT_BITS[method], 0, 255)
    return jnp.where(inside[..., None], sampled, jnp.asarray(fill, jnp.int32))


def translation(x: jax.Array, y: jax.Array) -> jax.Array:
    """Matrix that samples x pixels further right and y pixels further down."""
    return jnp.stack([1.0, 0.0, x, 0.0, 1.0, y])


def shear(x: jax.Array, y: jax.Array) -> jax.Array:
    """Matrix that samples x pixels further right per row and y pixels further down per column."""
    return jnp.stack([1.0, x, 0.0, y, 1.0, 0.0])


def rotation(degrees: jax.Array, height: int, width: int) -> jax.Array:
    """Matrix that rotates the image counter-clockwise around its centre."""
    cosine, sine = jnp.cos(jnp.deg2rad(degrees)), -jnp.sin(jnp.deg2rad(degrees))
    x, y = width / 2, height / 2
    return jnp.stack(
        [cosine, sine, x - cosine * x - sine * y, -sine, cosine, y + sine * x - cosine * y]
    )


def check(method: str, fill: float | tuple[float, ...]) -> None:
    """Raise ValueError for an unknown method or a level outside 0…255."""
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}; allowed: {', '.join(METHODS)}")
    if not all(0 <= level <= 255 for level in np.ravel(fill)):
        raise ValueError(f"fill must be in 0…255, got {fill}")


# Bits of a weight along one axis. Sums of (weight · weight · grey level) fit 31 bits.
_WEIGHT_BITS = {"nearest": 0, "bilinear": _PHASE_BITS, "bicubic": _PHASE_BITS + 1}


def _taps(place: jax.Array, bits: int, method: str) -> list[tuple[jax.Array, jax.Array]]:
    """Return the pixels that a sample reads along one axis, and weights in 2^-_WEIGHT_BITS.

    Args:
      place: coordinate in units of 2^-bits; pixel centres are half-integers.
    """
    if method == "nearest":
        return [(place >> bits, 1)]
    place = place - (1 << (bits - 1))
    pixel = place >> bits
    rounding = 1 << (bits - _PHASE_BITS - 1)
    one = 1 << _PHASE_BITS
    far = ((place & ((1 << bits) - 1)) + rounding) >> (bits - _PHASE_BITS)  # 0…one
    near = one - far
    if method == "bilinear":
        return [(pixel, near), (pixel + 1, far)]
    # The cubic kernel with parameter −1, factored so that products fit 32 bits.
    product = near * far
    weights = -product * near, far * (one * one + product), -product * far
    down = 3 * _PHASE_BITS - _WEIGHT_BITS[method]
    before, after, beyond = (((weight >> (down - 1)) + 1) >> 1 for weight in weights)
    here = (1 << _WEIGHT_BITS[method]) - before - after - beyond
    return [(pixel - 1, before), (pixel, here), (pixel + 1, after), (pixel + 2, beyond)]
