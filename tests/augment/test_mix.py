"""Mixing compared with NumPy, and distributions of the draws."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from cv_jax import augment
from cv_jax.augment import mix

# Each test of a distribution rejects a correct implementation for one seed in 1,000.
MIN_PVALUE = 1e-3
STRINGS = (
    "mixup(0.8)",
    "mixup(0.8, 'example')",
    "cutmix",
    "cutmix(0.5, 'example')",
    "mixup_or_cutmix(per='example', probability=0.7)",
    "mixup_or_cutmix",
)


def batch(size=8, height=6, width=10):
    return jax.random.normal(jax.random.key(0), (size, height, width, 2)), jnp.eye(size)


@functools.cache
def jitted(string):
    operations = augment.parse(string).batch
    return jax.jit(lambda key, x, y: augment.apply_batch(operations, key, x, y))


def run(string, key, images, labels):
    return jitted(string)(key, images, labels)


@pytest.mark.parametrize("string", STRINGS)
def test_labels_sum_to_one_and_match_the_pixels(string):
    images, labels = batch()
    for seed in range(4):
        mixed, soft = map(np.asarray, run(string, jax.random.key(seed), images, labels))
        np.testing.assert_allclose(soft.sum(axis=-1), 1, rtol=1e-6)
        assert (mixed.shape, mixed.dtype) == (images.shape, images.dtype)
        kept = soft[np.arange(8), np.arange(8)]
        np.testing.assert_allclose(soft[np.arange(8), 7 - np.arange(8)], 1 - kept, atol=1e-6)
        for i, image in enumerate(np.asarray(images)):
            partner = np.asarray(images)[7 - i]
            pasted = (mixed[i] == partner).all(axis=-1)
            if pasted.any():  # a box: the label weight is its pixel count
                assert kept[i] == np.float32(1 - pasted.sum() / pasted.size)
                np.testing.assert_array_equal(mixed[i][~pasted], image[~pasted])
                assert pasted.sum() == pasted.any(axis=0).sum() * pasted.any(axis=1).sum()
            else:
                blended = kept[i] * image + (1 - kept[i]) * partner
                np.testing.assert_allclose(mixed[i], blended, atol=1e-6)
        if "example" not in string:
            assert np.unique(kept).size == 1


@pytest.mark.parametrize("name", ["mixup", "cutmix", "mixup_or_cutmix"])
def test_probability_zero_is_the_identity(name):
    for got, given in zip(
        run(f"{name}(probability=0)", jax.random.key(0), *batch()), batch(), strict=True
    ):
        np.testing.assert_array_equal(got, given)


@pytest.mark.parametrize("alpha", [0.4, 0.8, 1.0])
def test_shares_of_mixup_follow_the_folded_beta_distribution(alpha):
    shares = np.asarray(mix.draw_mixup(jax.random.key(1), 4000, alpha).share)
    assert shares.min() >= 0.5
    # For a symmetric distribution, max(λ, 1−λ) has the CDF 2F(x)−1 on ½…1.
    beta = scipy.stats.beta(alpha, alpha)
    test = scipy.stats.kstest(shares, lambda x: np.clip(2 * beta.cdf(x) - 1, 0, 1))
    assert test.pvalue > MIN_PVALUE


@pytest.mark.parametrize("alpha", [0.5, 1.0])
def test_boxes_of_cutmix_have_the_stated_size_and_place(alpha):
    # Many pixels, so rounding is below the noise. Boxes are clipped at the border.
    size, count = 4000, 4000
    top, left, h, w = np.asarray(mix.draw_cutmix(jax.random.key(2), count, alpha, size, size).box)
    assert (top >= 0).all()
    assert (top + h <= size).all()
    whole = (top > 0) & (top + h < size) & (left > 0) & (left + w < size)
    assert (np.abs(h - w)[whole] <= 0).all()
    # Reference: the same definition in NumPy.
    draw = np.random.default_rng(0)
    side = (np.sqrt(1 - draw.beta(alpha, alpha, count)) * size).astype(int)
    centre = draw.integers(0, size, (2, count))
    low, high = np.maximum(centre - side // 2, 0), np.minimum(centre + (side + 1) // 2, size)
    area = ((high - low)[0] * (high - low)[1]) / size**2
    assert scipy.stats.ks_2samp(h * w / size**2, area).pvalue > MIN_PVALUE
    assert scipy.stats.ks_2samp(top, low[0]).pvalue > MIN_PVALUE
    assert scipy.stats.ks_2samp(left + w, high[1]).pvalue > MIN_PVALUE


def test_mixing_and_switching_have_their_probabilities():
    images, labels = (
        jnp.broadcast_to(jnp.arange(2000.0)[:, None, None, None], (2000, 8, 8, 1)),
        None,
    )
    labels = jnp.stack([jnp.arange(2000.0), 2000 - jnp.arange(2000.0)], axis=-1) / 2000
    string = "mixup_or_cutmix(switch_probability=0.3, per='example', probability=0.6)"
    mixed, soft = map(np.asarray, run(string, jax.random.key(3), images, labels))
    np.testing.assert_allclose(soft.sum(axis=-1), 1, rtol=1e-6)
    levels = np.array([len(np.unique(image)) for image in mixed])
    changed = np.array([not (a == b).all() for a, b in zip(mixed, np.asarray(images), strict=True)])
    blended = changed & (levels == 1)
    # At 8 pixels, about one in fifty CutMix boxes is empty or covers the image.
    assert scipy.stats.binomtest(int(blended.sum()), 2000, 0.6 * 0.7).pvalue > MIN_PVALUE
    assert abs((levels == 2).mean() - 0.6 * 0.3) < 0.04
