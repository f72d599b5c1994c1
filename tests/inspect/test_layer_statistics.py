"""Tests of statistics by layer."""

import jax
import numpy as np
import pytest
from small_nets import with_weights

from cv_jax import models
from cv_jax.inspect import layers


def test_statistics_equal_numpy():
    images = jax.random.normal(jax.random.key(0), (6, 4, 4, 1))
    model = models.create("mlp", widths=(8, 6), num_classes=5)
    variables = with_weights(model, images)
    params = variables["params"]
    fc1 = params["fc1"]  # channel 2 becomes dead
    fc1["kernel"] = np.where(np.arange(8) == 2, 0, fc1["kernel"])
    fc1["bias"] = np.where(np.arange(8) == 2, -1, fc1["bias"])
    found = {x.name: x for x in layers.statistics(model, variables, images)}
    hidden = np.maximum(np.asarray(images).reshape(6, -1) @ fc1["kernel"] + fc1["bias"], 0)
    first = found["fc1"]
    np.testing.assert_allclose([first.mean, first.std], [hidden.mean(), hidden.std()], rtol=1e-5)
    np.testing.assert_allclose(first.zeros, (hidden == 0).mean())
    dead = (hidden.max(0) == hidden.min(0)).mean()
    assert first.dead == dead >= 1 / 8
    assert first.channels == 8
    assert np.isnan(first.gradient_norm)


def test_gradient_norms_are_those_of_jax(resnet):
    model, variables, images = resnet
    labels = np.array([1, 3])
    found = {x.name: x for x in layers.statistics(model, variables, images, labels)}
    logits, _ = model.apply(variables, images, train=False)
    error = (jax.nn.softmax(logits) - jax.nn.one_hot(labels, 5)) / 2
    slope = error @ variables["params"]["head"]["kernel"].T
    np.testing.assert_allclose(found["pre_logits"].gradient_norm, np.linalg.norm(slope), rtol=1e-5)


@pytest.mark.parametrize(("rows", "columns"), [(20, 6), (6, 20)])
def test_effective_rank(rows, columns):
    """Equal singular values: the rank; one of them: 1."""
    rng = np.random.default_rng(0)
    left = np.linalg.qr(rng.standard_normal((rows, 3)) - 0)[0]
    left = np.linalg.qr(left - left.mean(0))[0]
    right = np.linalg.qr(rng.standard_normal((columns, 3)))[0]
    np.testing.assert_allclose(layers.effective_rank(left @ right.T), 3, rtol=1e-6)
    np.testing.assert_allclose(layers.effective_rank(left[:, :1] @ right[:, :1].T), 1, rtol=1e-6)
    values = np.array([4.0, 2.0, 2.0])
    share = values / values.sum()
    expected = np.exp(-(share * np.log(share)).sum())
    np.testing.assert_allclose(layers.effective_rank(left * values @ right.T), expected, rtol=1e-6)
    assert layers.effective_rank(np.ones((4, 3))) == 0
