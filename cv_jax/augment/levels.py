"""Pillow's arithmetic on whole grey levels, with nothing drawn.

Images are int32 [H, W, C] in 0…255, C one or three where colours matter. What maps each level to
another is also a map of the table 0…255, given what it needs to know of the image. Factors come in
steps of 1/4096, so that every sum below is exact and depends on no compiler. Unless a function says
otherwise its result is Pillow's, bit for bit.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

_FACTOR_BITS = 12
LEVELS = np.arange(256, dtype=np.int32)[:, None]


def to_levels(image: jax.Array) -> jax.Array:
    """The nearest grey levels of float32 values."""
    return jnp.clip(jnp.round(image), 0, 255).astype(jnp.int32)


def blend(first: jax.Array, second: jax.Array, factor: jax.Array) -> jax.Array:
    """`first` at factor 0, `second` at 1, beyond it above (`Image.blend`); factor below 8."""
    factor = jnp.round(factor * (1 << _FACTOR_BITS)).astype(jnp.int32)
    mixed = (first << _FACTOR_BITS) + factor * (second - first)
    return jnp.clip(mixed >> _FACTOR_BITS, 0, 255)


def round_factor(factor: jax.Array) -> jax.Array:
    """The factor that `blend` uses."""
    return jnp.round(factor * (1 << _FACTOR_BITS)) / (1 << _FACTOR_BITS)


def grey(levels: jax.Array) -> jax.Array:
    """Luma of Rec. 601, [H, W, 1]; a grayscale image as it is."""
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
    """Between black at factor 0 and the image at 1."""
    return blend(jnp.zeros_like(levels), levels, factor)


def contrast(levels: jax.Array, factor: jax.Array, mean: jax.Array) -> jax.Array:
    """Between the mean luma at factor 0 and the image at 1."""
    return blend(mean, levels, factor)


def saturation(levels: jax.Array, factor: jax.Array) -> jax.Array:
    """Between the grayscale image at factor 0 and the image at 1."""
    return blend(grey(levels), levels, factor)


def sharpness(levels: jax.Array, factor: jax.Array) -> jax.Array:
    """Between the image smoothed by a 3×3 kernel at factor 0 and the image at 1. The outermost
    pixels stay."""
    height, width, _ = levels.shape
    padded = jnp.pad(levels, ((1, 1), (1, 1), (0, 0)))
    rows = padded[:-2] + padded[1:-1] + padded[2:]
    window = rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]
    smooth = (2 * (window + 4 * levels) + 13) // 26
    inner = np.zeros((height, width, 1), bool)
    inner[1:-1, 1:-1] = True
    return jnp.where(inner, blend(smooth, levels, factor), levels)


def invert(levels: jax.Array) -> jax.Array:
    """Black for white."""
    return 255 - levels


def posterise(levels: jax.Array, bits: jax.Array) -> jax.Array:
    """Keeps the highest 0…8 bits; none of them is black."""
    lost = 8 - bits
    return (levels >> lost) << lost


def solarise(levels: jax.Array, threshold: jax.Array) -> jax.Array:
    """Inverts the levels from the threshold on."""
    return jnp.where(levels < threshold, levels, 255 - levels)


def solarise_add(levels: jax.Array, amount: jax.Array, threshold: int = 128) -> jax.Array:
    """Adds to the levels below the threshold (timm's operation of this name)."""
    return jnp.where(levels < threshold, jnp.minimum(levels + amount, 255), levels)


def extremes(levels: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Lowest and highest level of each channel, [C] each."""
    return levels.min(axis=(0, 1)), levels.max(axis=(0, 1))


def autocontrast(levels: jax.Array, low: jax.Array, high: jax.Array) -> jax.Array:
    """Stretches the levels low…high of each channel to 0…255.

    Where the exact result is an integer, Pillow's double precision may give the one below.
    """
    span = jnp.maximum(high - low, 1)
    stretched = jnp.clip((levels - low) * 255 // span, 0, 255)
    return jnp.where(high > low, stretched, levels)


def histogram(levels: jax.Array) -> jax.Array:
    """Pixels at each level, int32 [256, C]."""
    channels = levels.shape[-1]
    bins = (levels * channels + np.arange(channels)).reshape(-1)
    counts = jnp.zeros(256 * channels, jnp.int32).at[bins].add(1, mode="promise_in_bounds")
    return counts.reshape(256, channels)


def equalise_table(counts: jax.Array) -> jax.Array:
    """The table [256, C] that makes a histogram [256, C] flat."""
    last = 255 - jnp.argmax(counts[::-1] > 0, axis=0)
    step = (counts.sum(axis=0) - counts[last, np.arange(counts.shape[1])]) // 255
    below = jnp.cumsum(counts, axis=0) - counts
    table = jnp.minimum((step // 2 + below) // jnp.maximum(step, 1), 255)
    return jnp.where(step > 0, table, LEVELS)


def look_up(levels: jax.Array, table: jax.Array) -> jax.Array:
    """Each channel's levels through its column of a table [256, C]."""
    channels = levels.shape[-1]
    return (
        table.reshape(-1).at[levels * channels + np.arange(channels)].get(mode="promise_in_bounds")
    )


def hue(levels: jax.Array, shift: jax.Array) -> jax.Array:
    """Turns the hue by a shift int32 in −255…255, where 255 is a whole turn.

    As torchvision does on Pillow images, through HSV in whole levels; within one grey level. A
    grayscale image stays.
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

    # Back: of the sextant `turn * 6 // 255` the place inside, in 1/255, is how far one channel is.
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
    """Pillow's hue, uint8 [3, 256, 511]: by which channel is the largest, largest minus smallest,
    and the difference of the two others + 255. Single precision decides some of its roundings."""
    span, offset = np.arange(1, 256)[:, None], np.arange(-255, 256)
    # Distances of the two others from the largest channel; the larger one is the span.
    near = (np.clip(span - np.maximum(offset, 0), 0, 255) / span).astype(np.float32)
    far = (np.clip(span + np.minimum(offset, 0), 0, 255) / span).astype(np.float32)
    table = np.zeros((3, 256, 511), np.uint8)
    for i in range(3):
        sixth = (2 * i + far.astype(np.float64) - near).astype(np.float32)
        turn = np.fmod(sixth.astype(np.float64) / 6 + 1, 1).astype(np.float32)
        table[i, 1:] = turn.astype(np.float64) * 255
    return table


def gaussian_blur(levels: jax.Array, radius: jax.Array, largest: float) -> jax.Array:
    """Gaussian blur of a radius (the deviation, in pixels), by three box blurs in each direction.

    Args:
      levels: the image.
      radius: float32 scalar, at most `largest`.
      largest: decides how many pixels are read.
    """
    reach = int((math.sqrt(4 * largest**2 + 1) - 1) / 2) + 1
    box = _box_radius(radius)
    whole = jnp.floor(box).astype(jnp.int32)
    # Of a box of side 2·radius + 1 in units of 2^-24: full pixels, and the two it partly covers.
    full = ((1 << 24) / (2 * box + 1)).astype(jnp.uint32)
    part = ((1 << 24) - (2 * whole + 1).astype(jnp.uint32) * full) // 2
    distance = np.abs(np.arange(-reach, reach + 1))
    weights = jnp.where(distance <= whole, full, jnp.where(distance == whole + 1, part, 0))

    def across(_, image):
        size = image.shape[0]
        padded = jnp.pad(image, ((reach, reach), (0, 0), (0, 0)), "edge")
        total = sum(weights[i] * padded[i : size + i] for i in range(2 * reach + 1))
        return (total + (1 << 23)) >> 24

    # Loops, for a compiler would otherwise compute the inner passes anew for every outer pixel.
    image = levels.astype(jnp.uint32)
    image = jnp.swapaxes(jax.lax.fori_loop(0, 3, across, jnp.swapaxes(image, 0, 1)), 0, 1)
    return jax.lax.fori_loop(0, 3, across, image).astype(jnp.int32)


def _box_radius(radius):
    """Radius of the box whose three-fold blur has a Gaussian's variance (Gwosdek et al., 2011)."""
    variance = radius * radius / 3
    whole = jnp.floor((jnp.sqrt(12 * variance + 1) - 1) / 2)
    part = (2 * whole + 1) * (whole * (whole + 1) - 3 * variance)
    return whole + part / (6 * (variance - (whole + 1) ** 2))
