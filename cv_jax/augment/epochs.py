"""Operations on one image that depend on the epoch, on the device: `(key, epoch, image) → image`.

The key is that of the example: the same in every epoch, whatever the batch or the position in it.
Images are float32 [H, W, C] on the scale 0…255 and keep their shape.
"""

import jax
import jax.numpy as jnp


def alternating_flip():
    """Mirror left and right in every second epoch; half of the examples start with the mirror.

    Two consecutive epochs show every image and every mirror image once, where independent flips
    repeat half of the images (Jordan, 2024, arXiv:2404.00498, section 3.6). The paper draws the
    first epoch, too.
    """

    def apply(key, epoch, image):
        mirrored = jax.random.bernoulli(key) ^ (epoch % 2 == 1)
        return jnp.where(mirrored, image[:, ::-1], image)

    return apply


OPERATIONS = {"alternating_flip": alternating_flip}
