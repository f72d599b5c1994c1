"""Tests of the numbers that compare saliency methods."""

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats
from small_nets import with_weights

from cv_jax import models
from cv_jax.inspect import fidelity, saliency


def one_pixel():
    """Return a classifier of 4×4 images whose class 1 depends on one pixel, and images."""
    model = models.create("linear", num_classes=2)
    kernel = np.zeros((16, 2), np.float32)
    kernel[4 * 1 + 2, 1] = 4
    variables = {"params": {"head": {"kernel": jnp.asarray(kernel), "bias": jnp.zeros(2)}}}
    return model, variables, jnp.ones((1, 4, 4, 1)), jnp.array([1])


def test_curves_of_a_classifier_that_reads_one_pixel():
    net = one_pixel()
    best, worst = np.zeros((1, 4, 4)), np.zeros((1, 4, 4))
    best[0, 1, 2], worst[0, 1, 2] = 1, -1
    high, low = 1 / (1 + np.exp(-4)), 0.5
    removed = fidelity.deletion(*net, best, steps=16)
    np.testing.assert_allclose(removed, [[high] + [low] * 16], rtol=1e-5)
    kept = fidelity.deletion(*net, worst, steps=16)
    np.testing.assert_allclose(kept, [[high] * 16 + [low]], rtol=1e-5)
    # The area by trapezoids: the one step from high to low counts half.
    np.testing.assert_allclose(
        fidelity.area(removed), [(16 * low + (high - low) / 2) / 16], rtol=1e-5
    )
    assert fidelity.area(removed) < fidelity.area(kept)


def test_insertion_ends_with_the_image(resnet, classes):
    model, variables, images = resnet
    maps = np.random.default_rng(0).random((2, 32, 32))
    curve = fidelity.insertion(model, variables, images, classes, maps, steps=4)
    logits, _ = model.apply(variables, images, train=False)
    whole = jax.nn.softmax(logits)[jnp.arange(2), classes]
    assert curve.shape == (2, 5)
    np.testing.assert_allclose(curve[:, -1], whole, rtol=1e-5)
    removed = fidelity.deletion(model, variables, images, classes, maps, steps=4)
    np.testing.assert_allclose(removed[:, 0], whole, rtol=1e-5)


def test_pointing():
    maps = np.zeros((3, 4, 5))
    maps[0, 2, 3] = maps[1, 0, 0] = 1
    objects = np.zeros((3, 4, 5), bool)
    objects[:, 2:, 2:] = True
    objects[2] = True
    np.testing.assert_array_equal(fidelity.pointing(maps, objects), [True, False, False])


def test_similarity_is_spearmans():
    rng = np.random.default_rng(0)
    a, b = rng.random((2, 4, 5)), rng.random((2, 4, 5))
    expected = [scipy.stats.spearmanr(x.ravel(), y.ravel())[0] for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(fidelity.similarity(a, b), expected)
    np.testing.assert_allclose(fidelity.similarity(a, a**3), [1, 1])


def test_random_weights_change_a_gradient_but_not_a_random_map(classes):
    images = jax.random.normal(jax.random.key(1), (2, 12, 12, 1))
    model = models.create("linear", num_classes=5)
    net = model, with_weights(model, images), images, classes
    changed = fidelity.randomisation(saliency.gradient, *net)
    assert (np.abs(changed) < 0.5).all()
    unchanged = fidelity.randomisation(saliency.random_map, *net)
    np.testing.assert_allclose(unchanged, [1, 1])
