"""Layers that several architectures share, compared with NumPy."""

import numpy as np
import pytest

from cv_jax.models import layers

MAP = np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype(np.float32)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("mean", MAP.mean(axis=(1, 2))),
        ("max", MAP.max(axis=(1, 2))),
        ("mean_max", (MAP.mean(axis=(1, 2)) + MAP.max(axis=(1, 2))) / 2),
        ("concat", np.concatenate([MAP.mean(axis=(1, 2)), MAP.max(axis=(1, 2))], axis=-1)),
    ],
)
def test_pooling(kind, expected):
    np.testing.assert_allclose(layers.pool(MAP, kind, (1, 2)), expected, rtol=1e-5)


def test_an_unknown_pooling_is_a_mistake():
    with pytest.raises(ValueError, match="unknown pool 'median'; allowed: mean, max"):
        layers.pool(MAP, "median", (1, 2))


def test_quick_gelu():
    """x / (1 + exp(-1.702 x))."""
    x = np.linspace(-4, 4, 9)
    got = layers.activation("quick_gelu")(x)
    np.testing.assert_allclose(got, x / (1 + np.exp(-1.702 * x)), rtol=1e-6)
