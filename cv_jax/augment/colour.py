"""Operations on the colours of one image, on the device: `(key, image) → image`.

Images are float32 [H, W, C] on the scale 0…255.
"""

import jax
import jax.numpy as jnp
import numpy as np

from cv_jax.augment.chance import not_negative, sometimes

# Principal components of ImageNet's RGB values on the scale 0…1: standard deviations, and the
# directions as columns, as published with the residual nets' Torch code.
_LIGHTING_SCALES = np.array([0.2175, 0.0188, 0.0045])
_LIGHTING_DIRECTIONS = np.array(
    [[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]]
)


def lighting(deviation: float = 0.1, probability: float = 1.0):
    """Adds a random multiple of ImageNet's principal colours (Krizhevsky et al., 2012, 4.1).

    Args:
      deviation: standard deviation of the three multipliers.
      probability: of doing so.
    """
    not_negative(deviation=deviation)

    def apply(key, image):
        if image.shape[-1] != 3:
            raise ValueError(f"lighting needs 3 channels, the image has {image.shape[-1]}")
        amount = deviation * jax.random.normal(key, (3,)) * _LIGHTING_SCALES
        return jnp.clip(image + 255 * (_LIGHTING_DIRECTIONS @ amount), 0, 255)

    return sometimes(probability, apply)


OPERATIONS = {"lighting": lighting}
