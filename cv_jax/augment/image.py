"""Operations on one image, on the device: `(key, image) → image`.

Images are float32 [H, W, C] on the scale 0…255. Everything here is vmapped over the batch with one
key for each position of the global batch, inside the jitted step.
"""

import jax
import jax.numpy as jnp
import numpy as np


def flip(probability: float = 0.5):
    """Mirrors left and right with that probability."""
    if not 0 <= probability <= 1:
        raise ValueError(f"probability must be in 0…1, got {probability}")

    def apply(key, image):
        return jnp.where(jax.random.bernoulli(key, probability), image[:, ::-1], image)

    return apply


def pad_crop(padding: int, mode: str = "constant"):
    """Pads every side, then takes a window of the old size at a uniformly drawn place.

    The augmentation of the CIFAR residual nets (He et al., 2015, section 4.2).

    Args:
      padding: pixels on each side.
      mode: "constant" pads with black, "reflect" and "edge" with what stands there.
    """
    modes = ("constant", "reflect", "edge")
    if mode not in modes:
        raise ValueError(f"unknown mode {mode!r}; allowed: {', '.join(modes)}")
    if padding < 0:
        raise ValueError(f"padding must not be negative, got {padding}")

    def apply(key, image):
        padded = jnp.pad(image, ((padding, padding), (padding, padding), (0, 0)), mode)
        top, left = jax.random.randint(key, (2,), 0, 2 * padding + 1)
        return jax.lax.dynamic_slice(padded, (top, left, 0), image.shape)

    return apply


# Principal components of ImageNet's RGB values on the scale 0…1: standard deviations, and the
# directions as columns, as published with the residual nets' Torch code.
_LIGHTING_SCALES = np.array([0.2175, 0.0188, 0.0045])
_LIGHTING_DIRECTIONS = np.array(
    [[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]]
)


def lighting(deviation: float = 0.1):
    """Adds a random multiple of ImageNet's principal colours (Krizhevsky et al., 2012, 4.1).

    Args:
      deviation: standard deviation of the three multipliers.
    """
    if deviation < 0:
        raise ValueError(f"deviation must not be negative, got {deviation}")

    def apply(key, image):
        if image.shape[-1] != 3:
            raise ValueError(f"lighting needs 3 channels, the image has {image.shape[-1]}")
        amount = deviation * jax.random.normal(key, (3,)) * _LIGHTING_SCALES
        return jnp.clip(image + 255 * (_LIGHTING_DIRECTIONS @ amount), 0, 255)

    return apply


OPERATIONS = {"lighting": lighting, "flip": flip, "pad_crop": pad_crop}
