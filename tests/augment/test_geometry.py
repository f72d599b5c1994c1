"""Geometry on the device compared with NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cv_jax import augment

KEYS = jax.random.split(jax.random.key(0), 200)


def pictures(count=200, height=6, width=5, channels=2):
    draw = np.random.default_rng(0).integers(0, 256, (count, height, width, channels))
    return jnp.asarray(draw, jnp.float32)


def run(string, images, keys=KEYS):
    return augment.apply_images(augment.parse(string).image, keys, images)


def test_flip_mirrors_about_the_stated_share():
    images = pictures()
    got = np.asarray(run("flip(0.3)", images))
    mirrored = (got == np.asarray(images)[:, :, ::-1]).all(axis=(1, 2, 3))
    same = (got == np.asarray(images)).all(axis=(1, 2, 3))
    assert (mirrored ^ same).all()
    # 200 draws with p = 0.3: outside 34…86 with probability below 1e-4.
    assert 34 <= mirrored.sum() <= 86


def test_probability_zero_is_the_identity_and_one_always_mirrors():
    images = pictures()
    np.testing.assert_array_equal(run("flip(0)", images), images)
    np.testing.assert_array_equal(run("flip(1)", images), images[:, :, ::-1])


@pytest.mark.parametrize(("mode", "numpy"), [("constant", "constant"), ("edge", "edge")])
def test_pad_crop_takes_a_window_of_the_padded_image(mode, numpy):
    images = pictures()
    got = np.asarray(run(f"pad_crop(2, '{mode}')", images))
    places = set()
    for before, after in zip(np.asarray(images), got, strict=True):
        padded = np.pad(before, ((2, 2), (2, 2), (0, 0)), numpy)
        matches = [
            (y, x)
            for y in range(5)
            for x in range(5)
            if (padded[y : y + 6, x : x + 5] == after).all()
        ]
        assert matches
        places.add(matches[0])
    assert len(places) == 25  # 200 draws miss one of 25 positions with p = 1/140


@pytest.mark.parametrize("string", ["flip", "pad_crop(1)", "pad_crop(3, 'reflect')|flip"])
def test_shape_dtype_and_range_are_kept_and_keys_determine_pixels(string):
    images = pictures()
    got = run(string, images)
    assert (got.shape, got.dtype) == (images.shape, images.dtype)
    assert got.min() >= 0
    assert got.max() <= 255
    np.testing.assert_array_equal(got, jax.jit(lambda x: run(string, x))(images))
    # Pixels depend on the key of the image, not on other images in the batch.
    np.testing.assert_array_equal(got[7:9], run(string, images[7:9], KEYS[7:9]))
    assert not np.array_equal(got, run(string, images, jax.random.split(jax.random.key(1), 200)))


def test_padding_zero_is_the_identity():
    images = pictures()
    np.testing.assert_array_equal(run("pad_crop(0)", images), images)
