"""Operations on the colours of one image, on the device: `(key, image) → image`.

Images are float32 [H, W, C] on the scale 0…255. All operations except `lighting` round them to
integer grey levels and use Pillow's arithmetic; see `levels`.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from cv_jax.augment import levels
from cv_jax.augment.chance import not_negative, sometimes


def on_levels(operation: Callable) -> Callable:
    """Convert `(key, levels) → levels` to an operation on float32 images."""
    return lambda key, image: operation(key, levels.to_levels(image)).astype(image.dtype)


def _factor(key: jax.Array, strength: float) -> jax.Array:
    """Draw a factor, uniform in 1 ± strength but not negative."""
    return jax.random.uniform(key, (), minval=max(0.0, 1 - strength), maxval=1 + strength)


def _brightness(key, image, strength):
    return levels.brightness(image, _factor(key, strength))


def _contrast(key, image, strength):
    return levels.contrast(image, _factor(key, strength), levels.mean_grey(image))


def _saturation(key, image, strength):
    return levels.saturation(image, _factor(key, strength))


def _sharpness(key, image, strength):
    return levels.sharpness(image, _factor(key, strength))


def _hue(key, image, strength):
    shift = jax.random.uniform(key, (), minval=-strength, maxval=strength)
    return levels.hue(image, jnp.trunc(255 * shift).astype(jnp.int32))


def _check_strength(**strengths: float) -> None:
    for name, strength in strengths.items():
        largest = 0.5 if name == "hue" else 6
        if not 0 <= strength <= largest:
            raise ValueError(f"{name} must be in 0…{largest}, got {strength}")


def brightness(strength: float = 0.4, probability: float = 1.0):
    """Blend with black; the image's weight is uniform in 1 ± strength. Bit-exact with Pillow."""
    _check_strength(strength=strength)
    return sometimes(probability, on_levels(lambda key, x: _brightness(key, x, strength)))


def contrast(strength: float = 0.4, probability: float = 1.0):
    """Blend with the mean luma; the image's weight is uniform in 1 ± strength. Bit-exact with
    Pillow."""
    _check_strength(strength=strength)
    return sometimes(probability, on_levels(lambda key, x: _contrast(key, x, strength)))


def saturation(strength: float = 0.4, probability: float = 1.0):
    """Blend with the grayscale image; the image's weight is uniform in 1 ± strength. Bit-exact
    with Pillow."""
    _check_strength(strength=strength)
    return sometimes(probability, on_levels(lambda key, x: _saturation(key, x, strength)))


def sharpness(strength: float = 0.9, probability: float = 0.5):
    """Blend with the smoothed image; the image's weight is uniform in 1 ± strength. Bit-exact
    with Pillow."""
    _check_strength(strength=strength)
    return sometimes(probability, on_levels(lambda key, x: _sharpness(key, x, strength)))


def hue(strength: float = 0.1, probability: float = 1.0):
    """Rotate the hue by a share of a full turn, uniform in ± strength. Within one grey level of
    torchvision on Pillow images."""
    _check_strength(hue=strength)
    return sometimes(probability, on_levels(lambda key, x: _hue(key, x, strength)))


def colour_jitter(
    brightness: float = 0.4,
    contrast: float = 0.4,
    saturation: float = 0.4,
    hue: float = 0.0,
    probability: float = 1.0,
):
    """Apply the four operations in random order, like torchvision's `ColorJitter`.

    Args:
      brightness: strength; 0 omits the operation.
      contrast: likewise.
      saturation: likewise.
      hue: likewise, at most 0.5.
      probability: that the operation is applied to an image.
    """
    _check_strength(brightness=brightness, contrast=contrast, saturation=saturation, hue=hue)
    pairs = [
        (_brightness, brightness),
        (_contrast, contrast),
        (_saturation, saturation),
        (_hue, hue),
    ]
    pairs = [(operation, strength) for operation, strength in pairs if strength]
    count = len(pairs)

    def apply(key, image):
        order_key, key = jax.random.split(key)
        order, keys = jax.random.permutation(order_key, count), jax.random.split(key, count)

        def step(i, image):
            results = [
                operation(keys[n], image, strength) for n, (operation, strength) in enumerate(pairs)
            ]
            return jnp.select([order[i] == n for n in range(count)], results)

        return jax.lax.fori_loop(0, count, step, image)

    return sometimes(probability if pairs else 0.0, on_levels(apply))


def grayscale(probability: float = 0.1):
    """Set every channel to the luma. Bit-exact with Pillow."""

    def apply(key, image):
        return jnp.broadcast_to(levels.grey(image), image.shape)

    return sometimes(probability, on_levels(apply))


def gaussian_blur(smallest: float = 0.1, largest: float = 2.0, probability: float = 0.5):
    """Gaussian blur; the standard deviation in pixels is uniform in smallest…largest. Within one
    grey level of Pillow."""
    if not 0 < smallest <= largest:
        raise ValueError(f"radii must be 0 < smallest <= largest, got {smallest}, {largest}")

    def apply(key, image):
        radius = jax.random.uniform(key, (), minval=smallest, maxval=largest)
        return levels.gaussian_blur(image, radius, largest)

    return sometimes(probability, on_levels(apply))


def posterise(bits: int = 4, probability: float = 0.5):
    """Keep the highest `bits` bits of each level. Bit-exact with Pillow."""
    if not 0 <= bits <= 8:
        raise ValueError(f"bits must be in 0…8, got {bits}")
    return sometimes(probability, on_levels(lambda key, x: levels.posterise(x, bits)))


def solarise(threshold: float = 128, probability: float = 0.5):
    """Invert the levels at or above the threshold. Bit-exact with Pillow."""
    return sometimes(probability, on_levels(lambda key, x: levels.solarise(x, threshold)))


def solarise_add(amount: int = 50, threshold: int = 128, probability: float = 0.5):
    """Add to the levels below the threshold. Bit-exact with timm on Pillow images."""
    not_negative(amount=amount)

    def apply(key, image):
        return levels.solarise_add(image, amount, threshold)

    return sometimes(probability, on_levels(apply))


def invert(probability: float = 0.5):
    """Invert all levels. Bit-exact with Pillow."""
    return sometimes(probability, on_levels(lambda key, x: levels.invert(x)))


def autocontrast(probability: float = 0.5):
    """Stretch each channel to the full range. Within one grey level of Pillow."""
    return sometimes(
        probability, on_levels(lambda key, x: levels.autocontrast(x, *levels.extremes(x)))
    )


def equalise(probability: float = 0.5):
    """Equalise the histogram of each channel. Bit-exact with Pillow."""

    def apply(key, image):
        return levels.look_up(image, levels.equalise_table(levels.histogram(image)))

    return sometimes(probability, on_levels(apply))


# Principal components of ImageNet's RGB values on the scale 0…1: standard deviations, and
# directions as columns. Values of the Torch code published with the residual nets.
_LIGHTING_SCALES = np.array([0.2175, 0.0188, 0.0045])
_LIGHTING_DIRECTIONS = np.array(
    [[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]]
)


def lighting(deviation: float = 0.1, probability: float = 1.0):
    """Add random multiples of ImageNet's principal components (Krizhevsky et al., 2012, 4.1).

    Args:
      deviation: standard deviation of the three multipliers.
      probability: that the operation is applied to an image.
    """
    not_negative(deviation=deviation)

    def apply(key, image):
        if image.shape[-1] != 3:
            raise ValueError(f"lighting needs 3 channels, the image has {image.shape[-1]}")
        amount = deviation * jax.random.normal(key, (3,)) * _LIGHTING_SCALES
        return jnp.clip(image + 255 * (_LIGHTING_DIRECTIONS @ amount), 0, 255)

    return sometimes(probability, apply)


OPERATIONS = {
    "brightness": brightness,
    "contrast": contrast,
    "saturation": saturation,
    "hue": hue,
    "colour_jitter": colour_jitter,
    "grayscale": grayscale,
    "gaussian_blur": gaussian_blur,
    "sharpness": sharpness,
    "posterise": posterise,
    "solarise": solarise,
    "solarise_add": solarise_add,
    "invert": invert,
    "autocontrast": autocontrast,
    "equalise": equalise,
    "lighting": lighting,
}
