"""Operations on the geometry of one image, on the device: `(key, image) → image`.

Images are float32 [H, W, C] on the scale 0…255 and keep their shape. The jitted step vmaps these
operations over the batch, with one key per position of the global batch. Operations that
interpolate round to integer grey levels before and after.
"""

import jax
import jax.numpy as jnp
import numpy as np

from cv_jax.augment import boxes
from cv_jax.augment.affine import affine, check, rotation, translation
from cv_jax.augment.affine import shear as shear_matrix
from cv_jax.augment.chance import check_share, not_negative, sometimes
from cv_jax.augment.colour import on_levels


def flip(probability: float = 0.5):
    """Mirror left and right with a probability."""
    return sometimes(probability, lambda key, image: image[:, ::-1])


def flip_vertical(probability: float = 0.5):
    """Mirror top and bottom with a probability."""
    return sometimes(probability, lambda key, image: image[::-1])


def pad_crop(padding: int, mode: str = "constant", probability: float = 1.0):
    """Pad every side, then crop a window of the original size at a uniform position.

    The augmentation of the CIFAR residual nets (He et al., 2015, section 4.2).

    Args:
      padding: pixels on each side.
      mode: "constant" pads with black; "reflect" and "edge" as in `jnp.pad`.
      probability: that the operation is applied to an image.
    """
    modes = ("constant", "reflect", "edge")
    if mode not in modes:
        raise ValueError(f"unknown mode {mode!r}; allowed: {', '.join(modes)}")
    not_negative(padding=padding)

    def apply(key, image):
        if padding > max(image.shape[:2]):
            raise ValueError(f"pad_crop: padding {padding} is larger than the image")
        padded = jnp.pad(image, ((padding, padding), (padding, padding), (0, 0)), mode)
        top, left = jax.random.randint(key, (2,), 0, 2 * padding + 1)
        return jax.lax.dynamic_slice(padded, (top, left, 0), image.shape)

    return sometimes(probability, apply)


def translate(
    fraction: float = 0.1,
    method: str = "bicubic",
    fill: float | tuple[float, ...] = 0.0,
    probability: float = 1.0,
):
    """Shift by shares of width and height, each uniform in ± fraction.

    Args:
      fraction: at most 1.
      method: "nearest", "bilinear" or "bicubic", as in Pillow's `Image.transform`; the latter two
        differ from Pillow by at most one grey level.
      fill: the level, or one level per channel, outside the input.
      probability: that the operation is applied to an image.
    """
    check_share(fraction=fraction)
    check(method, fill)

    def apply(key, image):
        height, width, _ = image.shape
        x, y = jax.random.uniform(key, (2,), minval=-fraction, maxval=fraction)
        return affine(image, translation(x * width, y * height), method, fill)

    return sometimes(probability, on_levels(apply))


def shear(
    amount: float = 0.3,
    method: str = "bicubic",
    fill: float | tuple[float, ...] = 0.0,
    probability: float = 1.0,
):
    """Shear rows and columns, each by pixels per pixel uniform in ± amount.

    Args:
      amount: at most 1; the upper left corner is fixed.
      method: see `translate`.
      fill: likewise.
      probability: that the operation is applied to an image.
    """
    check_share(amount=amount)
    check(method, fill)

    def apply(key, image):
        x, y = jax.random.uniform(key, (2,), minval=-amount, maxval=amount)
        return affine(image, shear_matrix(x, y), method, fill)

    return sometimes(probability, on_levels(apply))


def rotate(
    degrees: float = 30.0,
    method: str = "bicubic",
    fill: float | tuple[float, ...] = 0.0,
    probability: float = 1.0,
):
    """Rotate around the centre by an angle uniform in ± degrees.

    Args:
      degrees: the largest angle.
      method: see `translate`.
      fill: likewise.
      probability: that the operation is applied to an image.
    """
    not_negative(degrees=degrees)
    check(method, fill)

    def apply(key, image):
        angle = jax.random.uniform(key, (), minval=-degrees, maxval=degrees)
        return affine(image, rotation(angle, *image.shape[:2]), method, fill)

    return sometimes(probability, on_levels(apply))


def random_resized_crop(
    min_area: float = 0.08,
    max_area: float = 1.0,
    min_ratio: float = 3 / 4,
    max_ratio: float = 4 / 3,
    method: str = "bilinear",
    probability: float = 1.0,
):
    """Crop a window of random area and aspect, and enlarge it to the size of the image: the device
    version of `inception_crop`.

    The share of the area is uniform, width / height is log-uniform. The first of ten draws that
    fits is used; if no draw fits, the largest central window of allowed aspect. Bit-exact with
    Pillow's `resize`. A window is never larger than the image, so antialiasing is not needed.

    Args:
      min_area: smallest share of the image.
      max_area: largest share of the image.
      min_ratio: smallest width / height.
      max_ratio: largest width / height.
      method: "bilinear" or "bicubic".
      probability: that the operation is applied to an image.
    """
    boxes.check_area_and_ratio(min_area, max_area, min_ratio, max_ratio)
    if method not in _KERNELS:
        raise ValueError(f"unknown method {method!r}; allowed: {', '.join(_KERNELS)}")

    def apply(key, image):
        height, width, _ = image.shape
        side_key, place_key = jax.random.split(key)
        w, h, found = boxes.random_sides(
            side_key, (width, height), (min_area, max_area), (min_ratio, max_ratio), (width, height)
        )
        ratio = min(max(width / height, min_ratio), max_ratio)
        widest, highest = min(width, round(height * ratio)), min(height, round(width / ratio))
        top, left = boxes.random_corner(place_key, height, width, h, w)
        top, h = jnp.where(
            found, jnp.stack([top, h]), jnp.array([(height - highest) // 2, highest])
        )
        left, w = jnp.where(found, jnp.stack([left, w]), jnp.array([(width - widest) // 2, widest]))
        return enlarge(image, top, left, h, w, method)

    return sometimes(probability, on_levels(apply))


def enlarge(levels: jax.Array, top, left, h, w, method: str) -> jax.Array:
    """Enlarge the window [top : top + h, left : left + w] to the size of the image. Bit-exact with
    Pillow's `resize`.

    Args:
      levels: int32 [H, W, C] in 0…255.
      top, left, h, w: int32 scalars, inside the image.
      method: "bilinear" or "bicubic".
    """

    def along_rows(image, start, length):
        size = len(image)
        first, weights = (jnp.asarray(table)[length - 1] for table in _weights(size, method))
        total = 1 << (_WEIGHT_BITS - 1)
        for tap in range(weights.shape[1]):
            row = image[jnp.clip(start + first + tap, 0, size - 1)]
            total += weights[:, tap, None, None] * row
        return jnp.clip(total >> _WEIGHT_BITS, 0, 255)

    across = along_rows(jnp.swapaxes(levels, 0, 1), left, w)
    return along_rows(jnp.swapaxes(across, 0, 1), top, h)


_WEIGHT_BITS = 22


def _weights(size: int, method: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the taps and weights that enlarge a window of length n + 1 to `size`, for every n.

    Returns:
      The first tap of output pixel i, relative to the window, int32 [size, size] indexed by (n, i),
      and the weights of this and the following taps, int32 [size, size, taps]. Weights sum to about
      2^_WEIGHT_BITS; taps outside the window have weight 0.
    """
    support, kernel = _KERNELS[method]
    length, pixel = np.arange(1, size + 1)[:, None], np.arange(size)
    centre = (pixel + 0.5) * (length / size)
    first = np.floor(centre - support + 0.5)
    places = first[..., None] + np.arange(2 * support)
    weights = kernel(np.abs(places + 0.5 - centre[..., None]))
    weights = np.where((places >= 0) & (places < length[..., None]), weights, 0)
    weights = weights / weights.sum(axis=-1, keepdims=True) * (1 << _WEIGHT_BITS)
    rounded = np.trunc(weights + np.copysign(0.5, weights))
    return first.astype(np.int32), rounded.astype(np.int32)


# Support in pixels, and weight by distance; the cubic kernel has parameter −1/2 (Keys, 1981).
_KERNELS = {
    "bilinear": (1, lambda x: np.maximum(1 - x, 0)),
    "bicubic": (
        2,
        lambda x: np.where(
            x < 1, (1.5 * x - 2.5) * x * x + 1, np.where(x < 2, ((2.5 - x / 2) * x - 4) * x + 2, 0)
        ),
    ),
}


OPERATIONS = {
    "flip": flip,
    "flip_vertical": flip_vertical,
    "pad_crop": pad_crop,
    "translate": translate,
    "shear": shear,
    "rotate": rotate,
    "random_resized_crop": random_resized_crop,
}
