"""Tests of CKA, neighbours and projections."""

from collections import OrderedDict

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest

from cv_jax.inspect import similarity


class Identity(nn.Module):
    """Two features: the image, and the image through a fixed matrix."""

    matrix: tuple = ()

    def __call__(self, image, *, train=False):
        flat = image.reshape(len(image), -1)
        second = flat @ jnp.asarray(self.matrix, jnp.float32)
        return second, OrderedDict(first=flat, second=second)


def tuples(matrix):
    return tuple(map(tuple, np.asarray(matrix).tolist()))


def unbiased_cka(x, y):
    """Song et al. (2012), equation 4, term by term in float64."""
    return hsic(x, y) / np.sqrt(hsic(x, x) * hsic(y, y))


def hsic(x, y):
    n, ones = len(x), np.ones(len(x))
    k, m = (gram - np.diag(np.diag(gram)) for gram in (x @ x.T, y @ y.T))
    return (
        np.trace(k @ m)
        + (ones @ k @ ones) * (ones @ m @ ones) / ((n - 1) * (n - 2))
        - 2 * (ones @ k @ m @ ones) / (n - 2)
    ) / (n * (n - 3))


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).standard_normal((12, 2, 3, 1)).astype(np.float32)


def test_cka_equals_numpy(images):
    matrix = np.random.default_rng(1).standard_normal((6, 4))
    found = similarity.cka(Identity(tuples(matrix)), {"params": {}}, [images])
    x = images.reshape(12, 6).astype(np.float64)
    assert found.rows == found.columns == ("first", "second")
    np.testing.assert_allclose(np.diag(found.cka), 1, rtol=1e-5)
    np.testing.assert_allclose(found.cka[0, 1], unbiased_cka(x, x @ matrix), rtol=1e-4)
    np.testing.assert_allclose(found.cka, found.cka.T, rtol=1e-5)


def test_cka_of_a_rotation_is_one(images):
    rotation = np.linalg.qr(np.random.default_rng(1).standard_normal((6, 6)))[0]
    found = similarity.cka(Identity(tuples(3 * rotation)), {"params": {}}, [images + 5])
    np.testing.assert_allclose(found.cka, 1, rtol=1e-4)


def test_cka_of_minibatches_averages_hsic(images):
    """The mean of the unbiased HSIC over minibatches, then the ratio."""
    matrix = np.random.default_rng(1).standard_normal((6, 4))
    batches = [images[:6], images[6:]]
    found = similarity.cka(Identity(tuples(matrix)), {"params": {}}, batches)
    x = images.reshape(2, 6, 6).astype(np.float64)
    between = sum(hsic(b, b @ matrix) for b in x)
    own = [sum(hsic(b, b) for b in x), sum(hsic(b @ matrix, b @ matrix) for b in x)]
    np.testing.assert_allclose(found.cka[0, 1], between / np.sqrt(own[0] * own[1]), rtol=1e-4)


def test_cka_of_two_networks(images):
    a, b = np.random.default_rng(1).standard_normal((2, 6, 4))
    found = similarity.cka(
        Identity(tuples(a)), {"params": {}}, [images], (Identity(tuples(b)), {"params": {}})
    )
    x = images.reshape(12, 6).astype(np.float64)
    np.testing.assert_allclose(found.cka[1, 1], unbiased_cka(x @ a, x @ b), rtol=1e-3, atol=1e-4)


def test_cka_needs_four_images(images):
    with pytest.raises(ValueError, match="at least 4 images in a batch, got 3"):
        similarity.cka(Identity(tuples(np.eye(6))), {"params": {}}, [images[:3]])


def test_nearest_neighbours():
    examples = np.array([[1, 0], [0, 2], [3, 3], [-1, 0], [2, 0]], np.float32)
    index, cosines = similarity.nearest_neighbours(np.array([[5.0, 0.0]]), examples, 3)
    np.testing.assert_array_equal(index, [[0, 4, 2]])
    np.testing.assert_allclose(cosines, [[1, 1, np.sqrt(0.5)]], rtol=1e-6)


def test_pca_keeps_distances_of_a_plane():
    rng = np.random.default_rng(0)
    plane = rng.standard_normal((20, 2))
    axes = np.linalg.qr(rng.standard_normal((7, 2)))[0]
    points = similarity.project(plane @ axes.T, "pca")

    def apart(x):
        return np.linalg.norm(x[:, None] - x[None], axis=-1)

    np.testing.assert_allclose(apart(points), apart(plane), atol=1e-9)


@pytest.mark.slow
def test_tsne_separates_two_clusters_and_repeats():
    rng = np.random.default_rng(0)
    features = np.concatenate([rng.standard_normal((20, 5)), 30 + rng.standard_normal((20, 5))])
    points = similarity.project(features, "tsne")
    np.testing.assert_array_equal(points, similarity.project(features, "tsne"))
    apart = np.linalg.norm(points[:20].mean(0) - points[20:].mean(0))
    assert apart > 3 * points[:20].std(axis=0).max()


def test_unknown_projection():
    with pytest.raises(ValueError, match="'lda'; allowed: pca, tsne, umap"):
        similarity.project(np.eye(5), "lda")
