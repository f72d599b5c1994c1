"""The linear classifier and the fully connected network."""

import jax
import numpy as np
import pytest
from quick import quick_jit

from cv_jax import models

IMAGE = np.random.default_rng(0).standard_normal((3, 4, 5, 2)).astype(np.float32)


def test_linear_is_one_matrix_product():
    model = models.create("linear", num_classes=7)
    variables = quick_jit(model.init)(jax.random.key(0), IMAGE)
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(variables))
    rng = np.random.default_rng(1)
    kernel, bias = rng.standard_normal((40, 7)), rng.standard_normal(7)
    logits, features = model.apply({"params": {"head": {"kernel": kernel, "bias": bias}}}, IMAGE)
    np.testing.assert_allclose(logits, IMAGE.reshape(3, 40) @ kernel + bias, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(features["pre_logits"], IMAGE.reshape(3, 40))


@pytest.mark.parametrize("widths", [(), (6,), (6, 5, 4)])
def test_mlp_by_hand(widths):
    model = models.create("mlp", num_classes=3, widths=widths, act="tanh")
    variables = quick_jit(model.init)(jax.random.key(0), IMAGE)
    x = IMAGE.reshape(3, 40).astype(np.float64)
    for i in range(len(widths)):
        layer = variables["params"][f"fc{i + 1}"]
        x = np.tanh(x @ layer["kernel"] + layer["bias"])
    expected = x @ variables["params"]["head"]["kernel"]
    np.testing.assert_allclose(model.apply(variables, IMAGE)[0], expected, rtol=1e-4, atol=1e-5)


def test_dropout_drops_its_share_in_training_only():
    model = models.create("mlp", num_classes=0, widths=(4000,), act="sigmoid", dropout_rate=0.25)
    variables = quick_jit(model.init)(jax.random.key(0), IMAGE)
    kept, _ = model.apply(variables, IMAGE, train=True, rngs={"dropout": jax.random.key(1)})
    everything, _ = model.apply(variables, IMAGE, train=False)
    np.testing.assert_allclose((kept == 0).mean(), 0.25, atol=0.02)
    alive = kept != 0
    np.testing.assert_allclose(kept[alive], everything[alive] / 0.75, rtol=1e-5)


@pytest.mark.parametrize(
    ("act", "std"),
    [("relu", (2 / 400) ** 0.5), ("gelu", (2 / 400) ** 0.5), ("tanh", (2 / 1000) ** 0.5)],
)
def test_initialisation(act, std):
    """He's normal distribution, or Glorot's for the saturating functions."""
    model = models.create("mlp", widths=(600,), act=act)
    variables = quick_jit(model.init)(jax.random.key(0), np.zeros((1, 20, 20, 1)))
    np.testing.assert_allclose(variables["params"]["fc1"]["kernel"].std(), std, rtol=0.02)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(act="step"), "unknown activation 'step'; allowed: relu, gelu"),
        (dict(widths=(8, 0)), "widths must be at least 1, got 8, 0"),
        (dict(dropout_rate=1.0), r"dropout_rate must lie in \[0, 1\), got 1.0"),
    ],
)
def test_mistakes_are_named(fields, message):
    with pytest.raises(ValueError, match=message):
        models.create("mlp", **fields).apply({}, IMAGE)
