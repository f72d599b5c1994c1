"""Batch normalisation against PyTorch's rule, computed in NumPy float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cv_jax.models.batch_norm import BatchNorm


def variables(channels, scale=None, bias=None):
    return {
        "params": {
            "scale": np.ones(channels, np.float32) if scale is None else scale,
            "bias": np.zeros(channels, np.float32) if bias is None else bias,
        },
        "batch_stats": {
            "mean": np.zeros(channels, np.float32),
            "var": np.ones(channels, np.float32),
        },
    }


def pytorch_step(x, mean, var, momentum=0.1, eps=1e-5):
    """(output without affine, running mean, running variance) after one training batch."""
    x = x.astype(np.float64).reshape(-1, x.shape[-1])
    batch_mean, biased, unbiased = x.mean(0), x.var(0), x.var(0, ddof=1)
    output = (x - batch_mean) / np.sqrt(biased + eps)
    keep = 1 - momentum
    return output, keep * mean + momentum * batch_mean, keep * var + momentum * unbiased


@settings(deadline=None, max_examples=15)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([(2,), (7,), (3, 2, 5), (2, 1, 1), (5, 4, 3)]),
    st.integers(1, 4),
    st.floats(-20, 20),
)
def test_three_training_steps(seed, positions, channels, offset):
    """Small batches, where biased and unbiased variance differ most, and means far from zero.

    The variance is a difference of two means of values minus the running mean. Its error is the
    float32 rounding of these means, which is relevant only if the values differ little compared to
    their distance from the running mean.
    """
    rng = np.random.default_rng(seed)
    state = variables(channels)
    mean, var = np.zeros(channels), np.ones(channels)
    for _ in range(3):
        x = (3 * rng.standard_normal((*positions, channels)) + offset).astype(np.float32)
        y, new = BatchNorm().apply(state, x, train=True, mutable=["batch_stats"])
        values = x.astype(np.float64).reshape(-1, channels)
        rounding = 1e-6 * np.square(values - mean).mean(0)  # of the variance; 8 units of float32
        expected, mean, var = pytorch_step(x, mean, var)
        state = {**state, **new}
        slack = 1e-5 + np.abs(expected) * rounding / (values.var(0) + 1e-5)
        assert (np.abs(y.reshape(-1, channels) - expected) <= slack).all()
        np.testing.assert_allclose(state["batch_stats"]["mean"], mean, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(state["batch_stats"]["var"], var, rtol=1e-4, atol=1e-5)


def test_evaluation_uses_the_running_statistics():
    rng = np.random.default_rng(0)
    scale, bias = rng.standard_normal((2, 3)).astype(np.float32)
    state = variables(3, scale, bias)
    state["batch_stats"] = {
        "mean": np.array([1, 2, 3], np.float32),
        "var": np.array([4, 1, 0.25], np.float32),
    }
    x = rng.standard_normal((2, 4, 4, 3)).astype(np.float32)
    expected = (x - [1, 2, 3]) / np.sqrt(np.array([4, 1, 0.25]) + 1e-5) * scale + bias
    y = BatchNorm().apply(state, x, train=False)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)


def test_without_affine():
    x = np.random.default_rng(0).standard_normal((8, 3)).astype(np.float32)
    layer = BatchNorm(use_scale=False, use_bias=False, epsilon=1e-6)
    state = layer.init(jax.random.key(0), x, train=True)
    assert set(state) == {"batch_stats"}
    np.testing.assert_array_equal(state["batch_stats"]["mean"], 0)  # init is not a training step
    y, _ = layer.apply(state, x, train=True, mutable=["batch_stats"])
    np.testing.assert_allclose(np.var(y, axis=0), 1, rtol=1e-4)


def test_a_large_mean_does_not_cancel():
    """With a running mean near the mean, the variance of values of 1e4 ± 1 is exact in float32."""
    rng = np.random.default_rng(0)
    x = (1e4 + rng.standard_normal((4096, 1))).astype(np.float32)
    state = variables(1)
    state["batch_stats"]["mean"] = np.array([1e4 - 3], np.float32)
    y, _ = BatchNorm().apply(state, x, train=True, mutable=["batch_stats"])
    assert abs(np.asarray(y, np.float64).var() - 1) < 1e-3


def test_statistics_are_float32_for_bfloat16():
    x = np.random.default_rng(0).standard_normal((64, 8, 8, 2)).astype(jnp.bfloat16)
    layer = BatchNorm(dtype="bfloat16")
    y, new = layer.apply(variables(2), x, train=True, mutable=["batch_stats"])
    assert y.dtype == jnp.bfloat16
    assert new["batch_stats"]["var"].dtype == jnp.float32
    _, mean, var = pytorch_step(x.astype(np.float32), np.zeros(2), np.ones(2))
    np.testing.assert_allclose(new["batch_stats"]["mean"], mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(new["batch_stats"]["var"], var, rtol=1e-5)


def test_axis_name_shares_statistics():
    """Four devices with `axis_name` give the result of one device; without it, per shard."""
    x = np.random.default_rng(0).standard_normal((4, 6, 5)).astype(np.float32)

    def run(layer, x):
        return layer.apply(variables(5), x, train=True, mutable=["batch_stats"])

    y, new = run(BatchNorm(), x.reshape(24, 5))
    shared = jax.vmap(lambda x: run(BatchNorm(axis_name="data"), x), axis_name="data")
    shared_y, shared_new = shared(x)
    np.testing.assert_allclose(shared_y.reshape(24, 5), y, rtol=1e-4, atol=1e-5)
    for name in ("mean", "var"):
        rows = shared_new["batch_stats"][name]
        np.testing.assert_allclose(rows, np.tile(new["batch_stats"][name], (4, 1)), rtol=1e-5)

    _, own = jax.vmap(lambda x: run(BatchNorm(), x))(x)
    _, mean, _ = pytorch_step(x[2], np.zeros(5), np.ones(5))
    np.testing.assert_allclose(own["batch_stats"]["mean"][2], mean, rtol=1e-4, atol=1e-6)


def test_one_value_per_channel_is_refused():
    with pytest.raises(ValueError, match="more than one value per channel"):
        BatchNorm().apply(variables(3), np.ones((1, 1, 1, 3)), train=True, mutable=["batch_stats"])
