"""Erasing: area, position, filling and probability."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from cv_jax import augment

COUNT, HEIGHT, WIDTH = 700, 16, 20
KEYS = jax.random.split(jax.random.key(0), COUNT)
# Values that no filling draws.
IMAGES = jnp.full((COUNT, HEIGHT, WIDTH, 3), 7.0) + jnp.arange(3)


def run(string):
    operations = augment.parse(string).erase
    return np.asarray(jax.jit(lambda x: augment.apply_images(operations, KEYS, x))(IMAGES))


def test_boxes_are_filled_in_the_stated_share_of_images():
    got = run("erase(0.25)")
    erased = (got != np.asarray(IMAGES)).all(axis=-1)
    hit = erased.any(axis=(1, 2))
    assert scipy.stats.binomtest(int(hit.sum()), COUNT, 0.25).pvalue > 1e-3
    for mask in erased[hit]:
        rows, columns = np.where(mask.any(axis=1))[0], np.where(mask.any(axis=0))[0]
        box = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        assert box.all()
        # Each side is rounded by up to half a pixel.
        height, width = box.shape
        assert (height - 0.5) * (width - 0.5) <= HEIGHT * WIDTH / 3
        assert (height + 0.5) * (width + 0.5) >= HEIGHT * WIDTH * 0.02
        assert height < HEIGHT
        assert width < WIDTH
    noise = got[erased]
    assert scipy.stats.kstest(noise.ravel()[:20000], "norm").pvalue > 1e-3


def test_modes_of_filling():
    got = run("erase(1, 'constant')")
    assert set(np.unique(got)) == {0.0, 7.0, 8.0, 9.0}
    got = run("erase(1, 'channel')")
    erased = (got != np.asarray(IMAGES)).all(axis=-1)
    colours = np.array([image[mask][0] for image, mask in zip(got, erased, strict=True)])
    for image, mask, colour in zip(got, erased, colours, strict=True):
        assert (image[mask] == colour).all()
    assert scipy.stats.kstest(colours.ravel(), "norm").pvalue > 1e-3
    assert abs(np.corrcoef(colours.T)[0, 1]) < 0.1


def test_several_boxes_share_the_area():
    area = (run("erase(1, 'constant', count=4)")[..., 0] == 0).mean(axis=(1, 2))
    assert 0.02 < area.mean() < (0.02 + 1 / 3) / 2
    assert area.max() < 1 / 3 + 0.1


def test_cutout_is_a_square_with_a_uniform_centre():
    erased = run("cutout(6)")[..., 0] == 0
    sizes = erased.sum(axis=(1, 2))
    assert sizes.max() == 36
    # A square centred in the corner is clipped to a quarter.
    assert sizes.min() == 9
    whole = (sizes == 36).sum()
    inner = (HEIGHT - 5) * (WIDTH - 5) / (HEIGHT * WIDTH)
    assert scipy.stats.binomtest(int(whole), COUNT, inner).pvalue > 1e-3


@pytest.mark.parametrize("string", ["erase(0)", "cutout(3, 0)", "cutout(3, probability=0.0)"])
def test_probability_zero_is_the_identity(string):
    np.testing.assert_array_equal(run(string), IMAGES)
