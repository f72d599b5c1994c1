"""Pillow's arithmetic on integer grey levels, without random draws.

Images are int32 [H, W, C] in 0…255; colour operations need C = 1 or 3. Pointwise operations also
apply to the table 0…255 (`LEVELS`), with statistics of the image as arguments. Factors are rounded
to 1/4096, so every sum is exact and independent of the compiler. Results are bit-exact with Pillow
unless a docstring states a tolerance.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

_FACTOR_BITS = 12
LEVELS = np.arange(256, dtype=np.int32)[:, None]


def to_levels(image: jax.Array) -> jax.Array:
    """Round float32 values to grey levels 0…255, int32."""
    return jnp.clip(jnp.round(image), 0, 255).astype(jnp.int32)


def blend(first: jax.Array, second: jax.Array, factor: jax.Array) -> jax.Array:
    """Blend: `first` at factor 0, `second` at 1, extrapolation above (`Image.blend`).

    The factor is below 8.
    """
    factor = jnp.round(factor * (1 << _FACTOR_BITS)).astype(jnp.int32)
    mixed = (first << _FACTOR_BITS) + factor * (second - first)
    return jnp.clip(mixed >> _FACTOR_BITS, 0, 255)


def round_factor(factor: jax.Array) -> jax.Array:
    """The factor as `blend` rounds it."""
    return jnp.round(factor * (1 << _FACTOR_BITS)) / (1 << _FACTOR_BITS)


def grey(levels: jax.Array) -> jax.Array:
    """Luma of Rec. 601, [H, W, 1]; grayscale images are unchanged."""
    channels = levels.shape[-1]
    if channels == 1:
        return levels
    if channels != 3:
        raise ValueError(f"colours need 1 or 3 channels, the image has {channels}")
    weighted = levels * np.array([19595, 38470, 7471], np.int32)
    return (weighted.sum(axis=-1, keepdims=True) + (1 << 15)) >> 16


def mean_grey(levels: jax.Array) -> jax.Array:
    """The mean luma, rounded."""
    count = levels.shape[0] * levels.shape[1]
    return (grey(levels).sum() + count // 2) // count


def brightness(levels: jax.Array, factor: jax.Array) -> jax.Array:
    """Blend black (factor 0) with the image (factor 1)."""
    return blend(jnp.zeros_like(levels), levels, factor)


def contrast(levels: jax.Array, factor: jax.Array, mean: jax.Array) -> jax.Array:
    """Blend the mean luma (factor 0) with the image (factor 1)."""
    return blend(mean, levels, factor)


def saturation(levels: jax.Array, factor: jax.Array) -> jax.Array:
    """Blend the grayscale image (factor 0) with the image (factor 1)."""
    return blend(grey(levels), levels, factor)


def sharpness(levels: jax.Array, factor: jax.Array) -> jax.Array:
    """Blend the image smoothed by a 3×3 kernel (factor 0) with the image (factor 1). Border pixels
    are unchanged."""
    height, width, _ = levels.shape
    padded = jnp.pad(levels, ((1, 1), (1, 1), (0, 0)))
    rows = padded[:-2] + padded[1:-1] + padded[2:]
    window = rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]
    smooth = (2 * (window + 4 * levels) + 13) // 26
    inner = np.zeros((height, width, 1), bool)
    inner[1:-1, 1:-1] = True
    return jnp.where(inner, blend(smooth, levels, factor), levels)


def invert(levels: jax.Array) -> jax.Array:
    """Invert all levels."""
    return 255 - levels


def posterise(levels: jax.Array, bits: jax.Array) -> jax.Array:
    """Keep the highest `bits` bits, 0…8; 0 bits give black."""
    lost = 8 - bits
    return (levels >> lost) << lost


def solarise(levels: jax.Array, threshold: jax.Array) -> jax.Array:
    """Invert the levels at or above the threshold."""
    return jnp.where(levels < threshold, levels, 255 - levels)


def solarise_add(levels: jax.Array, amount: jax.Array, threshold: int = 128) -> jax.Array:
    """Add to the levels below the threshold (timm's `solarize_add`)."""
    return jnp.where(levels < threshold, jnp.minimum(levels + amount, 255), levels)


def extremes(levels: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Lowest and highest level of each channel, [C] each."""
    return levels.min(axis=(0, 1)), levels.max(axis=(0, 1))


def autocontrast(levels: jax.Array, low: jax.Array, high: jax.Array) -> jax.Array:
    """Stretch the levels low…high of each channel to 0…255.

    Pillow computes in double precision: where the exact result is an integer, Pillow may return the
    next lower level.
    """
    span = jnp.maximum(high - low, 1)
    stretched = jnp.clip((levels - low) * 255 // span, 0, 255)
    return jnp.where(high > low, stretched, levels)


def histogram(levels: jax.Array) -> jax.Array:
    """Number of pixels per level, int32 [256, C]."""
    channels = levels.shape[-1]
    bins = (levels * channels + np.arange(channels)).reshape(-1)
    counts = jnp.zeros(256 * channels, jnp.int32).at[bins].add(1, mode="promise_in_bounds")
    return counts.reshape(256, channels)


def equalise_table(counts: jax.Array) -> jax.Array:
    """Return the lookup table [256, C] that equalises a histogram [256, C]."""
    last = 255 - jnp.argmax(counts[::-1] > 0, axis=0)
    step = (counts.sum(axis=0) - counts[last, np.arange(counts.shape[1])]) // 255
    below = jnp.cumsum(counts, axis=0) - counts
    table = jnp.minimum((step // 2 + below) // jnp.maximum(step, 1), 255)
    return jnp.where(step > 0, table, LEVELS)


def look_up(levels: jax.Array, table: jax.Array) -> jax.Array:
    """Map the levels of each channel through its column of a table [256, C]."""
    channels = levels.shape[-1]
    return (
        table.reshape(-1).at[levels * channels + np.arange(channels)].get(mode="promise_in_bounds")
    )


def hue(levels: jax.Array, shift: jax.Array) -> jax.Array:
    """Rotate the hue by `shift`, int32 in −255…255, where 255 is a full turn.

    Computed in integer HSV, like torchvision on Pillow images, and within one grey level of it.
    Grayscale images are unchanged.
    """
    channels = levels.shape[-1]
    if channels == 1:
        return levels
    if channels != 3:
        raise ValueError(f"colours need 1 or 3 channels, the image has {channels}")
    r, g, b = jnp.moveaxis(levels, -1, 0)
    value, span = levels.max(axis=-1), levels.max(axis=-1) - levels.min(axis=-1)
    sextant = jnp.where(r == value, 0, jnp.where(g == value, 1, 2))
    offset = jnp.choose(sextant, [g - b, b - r, r - g], mode="clip")
    turn = (
        jnp.asarray(_hues())
        .reshape(-1)
        .at[(sextant * 256 + span) * 511 + offset + 255]
        .get(mode="promise_in_bounds")
    )
    turn = (turn.astype(jnp.int32) + shift) & 255
    share = 255 * span // jnp.maximum(value, 1)

    # HSV to RGB: one channel moves with the position inside the sextant, in units of 1/255.
    sextant, place = turn * 6 // 255, turn * 6 % 255
    low = _round_quotient(value * (255 - share), 255)
    falling = _round_quotient(value * (255 * 255 - share * place), 255 * 255)
    rising = _round_quotient(value * (255 * 255 - share * (255 - place)), 255 * 255)
    order = [
        (value, rising, low),
        (falling, value, low),
        (low, value, rising),
        (low, falling, value),
        (rising, low, value),
        (value, low, falling),
    ]
    sextant = sextant % 6
    return jnp.stack(
        [jnp.select([sextant == i for i in range(6)], [o[c] for o in order]) for c in range(3)],
        axis=-1,
    )


def _round_quotient(numerator: jax.Array, denominator: int) -> jax.Array:
    return (numerator + denominator // 2) // denominator


def _hues() -> np.ndarray:
    """Pillow's hue, uint8 [3, 256, 511], indexed by the largest channel, largest minus smallest,
    and the difference of the other two + 255. Some roundings need Pillow's single precision."""
    span, offset = np.arange(1, 256)[:, None], np.arange(-255, 256)
    # Distances of the other two channels from the largest; the larger distance is the span.
    near = (np.clip(span - np.maximum(offset, 0), 0, 255) / span).astype(np.float32)
    far = (np.clip(span + np.minimum(offset, 0), 0, 255) / span).astype(np.float32)
    table = np.zeros((3, 256, 511), np.uint8)
    for i in range(3):
        sixth = (2 * i + far.astype(np.float64) - near).astype(np.float32)
        turn = np.fmod(sixth.astype(np.float64) / 6 + 1, 1).astype(np.float32)
        table[i, 1:] = turn.astype(np.float64) * 255
    return table


def gaussian_blur(levels: jax.Array, radius: jax.Array, largest: float) -> jax.Array:
    """Gaussian blur by three box blurs per axis. Within one grey level of Pillow.

    Args:
      levels: the image.
      radius: standard deviation in pixels, float32 scalar, at most `largest`.
      largest: upper bound of `radius`; fixes the number of taps.
    """
    reach = int((math.sqrt(4 * largest**2 + 1) - 1) / 2) + 1
    box = _box_radius(radius)
    whole = jnp.floor(box).astype(jnp.int32)
    # Weights of a box of side 2·box + 1, in units of 2^-24: full pixels, and the two partial ones.
    full = ((1 << 24) / (2 * box + 1)).astype(jnp.uint32)
    part = ((1 << 24) - (2 * whole + 1).astype(jnp.uint32) * full) // 2
    distance = np.abs(np.arange(-reach, reach + 1))
    weights = jnp.where(distance <= whole, full, jnp.where(distance == whole + 1, part, 0))

    def across(_, image):
        size = image.shape[0]
        padded = jnp.pad(image, ((reach, reach), (0, 0), (0, 0)), "edge")
        total = sum(weights[i] * padded[i : size + i] for i in range(2 * reach + 1))
        return (total + (1 << 23)) >> 24

    # Loops: unrolled, the compiler recomputes the inner passes for every outer pixel.
    image = levels.astype(jnp.uint32)
    image = jnp.swapaxes(jax.lax.fori_loop(0, 3, across, jnp.swapaxes(image, 0, 1)), 0, 1)
    return jax.lax.fori_loop(0, 3, across, image).astype(jnp.int32)


def _box_radius(radius):
    """Radius of the box whose threefold blur has the variance radius² (Gwosdek et al., 2011)."""
    variance = radius * radius / 3
    whole = jnp.floor((jnp.sqrt(12 * variance + 1) - 1) / 2)
    part = (2 * whole + 1) * (whole * (whole + 1) - 3 * variance)
    return whole + part / (6 * (variance - (whole + 1) ** 2))
