"""Response normalisation, adaptive pooling and initialisers against brute force and formulas."""

import jax
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from cv_jax.models.conv_layers import (
    adaptive_avg_pool,
    he_fan_out,
    local_response_norm,
    uniform_fan_in,
)


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.integers(1, 6), st.floats(0.0, 0.5))
def test_local_response_norm(seed, channels, n, alpha):
    """b_i = a_i / (k + α·Σ a_j²)^β, j from i − n/2 to i + n/2, clipped to the channels (2012, 3.3).

    For even n the window is asymmetric; the paper's n is odd, PyTorch's even windows lean the same
    way: one more channel before than after.
    """
    x = np.random.default_rng(seed).standard_normal((2, 3, 1, channels)).astype(np.float32)
    expected = np.empty(x.shape)
    for i in range(channels):
        low, high = max(0, i - n // 2), min(channels - 1, i - n // 2 + n - 1)
        total = sum(np.float64(x[..., j]) ** 2 for j in range(low, high + 1))
        expected[..., i] = x[..., i] / (1.5 + alpha * total) ** 0.75
    y = local_response_norm(x, k=1.5, n=n, alpha=alpha, beta=0.75)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.integers(1, 9), st.integers(1, 7))
def test_adaptive_avg_pool(seed, height, width, size):
    x = np.random.default_rng(seed).standard_normal((2, height, width, 3)).astype(np.float32)
    expected = np.empty((2, size, size, 3))
    for i in range(size):
        for j in range(size):
            rows = slice(int(np.floor(i * height / size)), int(np.ceil((i + 1) * height / size)))
            columns = slice(int(np.floor(j * width / size)), int(np.ceil((j + 1) * width / size)))
            expected[:, i, j] = x[:, rows, columns].mean((1, 2), dtype=np.float64)
    np.testing.assert_allclose(adaptive_avg_pool(x, size), expected, rtol=1e-5, atol=1e-6)


def test_initialisers():
    kernel = he_fan_out(jax.random.key(0), (3, 3, 40, 80), "float32")
    np.testing.assert_allclose(kernel.std(), np.sqrt(2 / (9 * 80)), rtol=0.02)
    kernel = uniform_fan_in(jax.random.key(0), (100, 300), "float32")
    np.testing.assert_allclose([kernel.min(), kernel.max()], [-0.1, 0.1], rtol=1e-3)
    np.testing.assert_allclose(kernel.std(), 0.1 / np.sqrt(3), rtol=0.02)
