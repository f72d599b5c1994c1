"""Operations on the geometry of one image, on the device: `(key, image) → image`.

Images are float32 [H, W, C] on the scale 0…255, and keep their shape. Everything here is vmapped
over the batch with one key for each position of the global batch, inside the jitted step.
"""

import jax
import jax.numpy as jnp

from cv_jax.augment.chance import not_negative, sometimes


def flip(probability: float = 0.5):
    """Mirrors left and right with that probability."""
    return sometimes(probability, lambda key, image: image[:, ::-1])


def flip_vertical(probability: float = 0.5):
    """Mirrors top and bottom with that probability."""
    return sometimes(probability, lambda key, image: image[::-1])


def pad_crop(padding: int, mode: str = "constant", probability: float = 1.0):
    """Pads every side, then takes a window of the old size at a uniformly drawn place.

    The augmentation of the CIFAR residual nets (He et al., 2015, section 4.2).

    Args:
      padding: pixels on each side.
      mode: "constant" pads with black, "reflect" and "edge" with what stands there.
      probability: of doing so.
    """
    modes = ("constant", "reflect", "edge")
    if mode not in modes:
        raise ValueError(f"unknown mode {mode!r}; allowed: {', '.join(modes)}")
    not_negative(padding=padding)

    def apply(key, image):
        padded = jnp.pad(image, ((padding, padding), (padding, padding), (0, 0)), mode)
        top, left = jax.random.randint(key, (2,), 0, 2 * padding + 1)
        return jax.lax.dynamic_slice(padded, (top, left, 0), image.shape)

    return sometimes(probability, apply)


OPERATIONS = {"flip": flip, "flip_vertical": flip_vertical, "pad_crop": pad_crop}
