"""Operations on one image, on the device: `(key, image) → image`.

Images are float32 [H, W, C] on the scale 0…255. Everything here is vmapped over the batch with one
key for each position of the global batch, inside the jitted step.
"""

import jax
import jax.numpy as jnp


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


OPERATIONS = {"flip": flip, "pad_crop": pad_crop}
