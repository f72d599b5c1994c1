"""Initialisers and layers that several convolutional architectures share."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from cv_jax.models.layers import at_least_float32


def he_fan_out(key: jax.Array, shape: tuple[int, ...], dtype) -> jax.Array:
    """Draw from N(0, √(2/n)), where n is the fan-out, k²·output channels.

    He et al., "Delving deep into rectifiers", ICCV 2015, arXiv:1502.01852, section 2.2: the variant
    that preserves the variance of the gradients. For kernels [..., in, out].
    """
    return nn.initializers.variance_scaling(2.0, "fan_out", "normal")(key, shape, dtype)


def uniform_fan_in(key: jax.Array, shape: tuple[int, ...], dtype) -> jax.Array:
    """Draw from U(±1/√fan-in), PyTorch's default for linear and convolution kernels."""
    bound = 1 / math.sqrt(math.prod(shape[:-1]))
    return jax.random.uniform(key, shape, dtype, -bound, bound)


def local_response_norm(
    x: jax.Array, *, k: float = 2.0, n: int = 5, alpha: float = 1e-4, beta: float = 0.75
) -> jax.Array:
    """Divide each value by (k + α·Σ a²)^β, with the sum over `n` neighbouring channels.

    Krizhevsky et al., 2012, section 3.3; the defaults are the paper's constants. Missing channels
    at both ends are zero. PyTorch and Caffe divide α by n: their α of 5e-4 at n = 5 is 1e-4 here.

    Args:
      x: [..., C]; the computation is in float32 (float64 for float64 inputs).
    """
    wide = at_least_float32(x)
    before = n // 2
    padding = [(0, 0)] * (x.ndim - 1) + [(before, n - 1 - before)]
    squares = jnp.pad(jnp.square(wide), padding)
    channels = x.shape[-1]
    total = sum(squares[..., i : i + channels] for i in range(n))
    return (wide / (k + alpha * total) ** beta).astype(x.dtype)


def adaptive_avg_pool(x: jax.Array, size: int) -> jax.Array:
    """Average [B, H, W, C] to [B, size, size, C] over the windows of PyTorch.

    Window i of an axis of length L is ⌊i·L/size⌋ to ⌈(i+1)·L/size⌉. Windows overlap if `size` does
    not divide L, and repeat values if L is smaller than `size`.
    """
    for axis in (1, 2):
        length = x.shape[axis]
        if length != size:
            windows = [(i * length // size, -(-(i + 1) * length // size)) for i in range(size)]
            means = [jax.lax.slice_in_dim(x, a, b, axis=axis).mean(axis) for a, b in windows]
            x = jnp.stack(means, axis)
    return x
