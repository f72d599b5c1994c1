"""Lighting on the device."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cv_jax import augment

KEYS = jax.random.split(jax.random.key(0), 200)


def run(string, images, keys=KEYS):
    return augment.apply_images(augment.parse(string).image, keys, images)


def test_lighting_moves_all_pixels_along_the_published_components():
    images = jnp.full((200, 2, 2, 3), 128.0)
    shifts = np.asarray(run("lighting(0.1)", images) - 128)
    assert np.ptp(shifts, axis=(1, 2)).max() == 0  # one shift for the whole image
    directions = np.array(
        [[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]]
    )
    along = shifts[:, 0, 0] @ directions / 255  # the directions are orthonormal to 4 digits
    # 200 draws: the standard error is 5 %, and ±20 % is four standard errors.
    np.testing.assert_allclose(along.std(axis=0), [0.02175, 0.00188, 0.00045], rtol=0.2)
    np.testing.assert_array_equal(run("lighting(0)", images), images)


def test_lighting_needs_colour():
    with pytest.raises(ValueError, match="lighting needs 3 channels, the image has 2"):
        run("lighting", jnp.zeros((200, 2, 2, 2)))
