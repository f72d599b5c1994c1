"""Mixing, against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from cv_jax.augment import mix


def batch(size=8):
    images = jax.random.normal(jax.random.key(0), (size, 4, 4, 1))
    return images, jnp.eye(size)


@pytest.mark.parametrize("per", ["batch", "example"])
def test_mixup_blends_images_and_labels_by_the_same_share(per):
    images, labels = batch()
    mixed, soft = mix.mixup(0.8, per)(jax.random.key(3), images, labels)
    np.testing.assert_allclose(soft.sum(axis=-1), 1, rtol=1e-6)
    # The share of each example, read off its label.
    share = np.asarray([soft[i, i] for i in range(8)])
    assert (np.unique(share.round(6)).size == 1) == (per == "batch")
    expected = share[:, None, None, None] * images + (1 - share)[:, None, None, None] * images[::-1]
    np.testing.assert_allclose(mixed, expected, atol=1e-6)


def test_shares_follow_the_folded_beta_distribution():
    def share(key):
        return mix.mixup(0.4)(key, *batch(2))[1][0, 0]

    shares = np.asarray(jax.vmap(share)(jax.random.split(jax.random.key(1), 2000)))
    assert shares.min() >= 0.5
    # max(λ, 1−λ) of a symmetric distribution has the CDF 2F(x)−1 on ½…1.
    beta = scipy.stats.beta(0.4, 0.4)
    test = scipy.stats.kstest(shares, lambda x: np.clip(2 * beta.cdf(x) - 1, 0, 1))
    assert test.pvalue > 1e-4
