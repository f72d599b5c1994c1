"""What the convolutional architectures share besides batch normalisation."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from cv_jax.models.layers import at_least_float32


def he_fan_out(key: jax.Array, shape: tuple[int, ...], dtype) -> jax.Array:
    """N(0, √(2/n)), n the connections that leave an input position: k²·output channels.

    He et al., "Delving deep into rectifiers", ICCV 2015, arXiv:1502.01852, section 2.2, the variant
    that keeps the size of the gradients. For kernels [..., in, out].
    """
    return nn.initializers.variance_scaling(2.0, "fan_out", "normal")(key, shape, dtype)


def uniform_fan_in(key: jax.Array, shape: tuple[int, ...], dtype) -> jax.Array:
    """U(±1/√n), n the inputs of one output: how PyTorch starts linear and convolution kernels."""
    bound = 1 / math.sqrt(math.prod(shape[:-1]))
    return jax.random.uniform(key, shape, dtype, -bound, bound)


def local_response_norm(
    x: jax.Array, *, k: float = 2.0, n: int = 5, alpha: float = 1e-4, beta: float = 0.75
) -> jax.Array:
    """Divides each value by (k + α·Σ a²)^β, the sum over `n` neighbouring channels at its place.

    Krizhevsky et al., 2012, section 3.3, whose constants are the defaults. Channels beyond the ends
    count as zero. PyTorch and Caffe divide α by n: their α of 5e-4 at n = 5 is the 1e-4 here.

    Args:
      x: [..., C]; the sum is taken in float32 (float64 for float64 inputs).
    """
    wide = at_least_float32(x)
    before = n // 2
    padding = [(0, 0)] * (x.ndim - 1) + [(before, n - 1 - before)]
    squares = jnp.pad(jnp.square(wide), padding)
    channels = x.shape[-1]
    total = sum(squares[..., i : i + channels] for i in range(n))
    return (wide / (k + alpha * total) ** beta).astype(x.dtype)


def adaptive_avg_pool(x: jax.Array, size: int) -> jax.Array:
    """Averages [B, H, W, C] to [B, size, size, C] over PyTorch's windows.

    Window i of an axis of length L covers ⌊i·L/size⌋ to ⌈(i+1)·L/size⌉: windows overlap where
    `size` does not divide L, and repeat values where L is smaller.
    """
    for axis in (1, 2):
        length = x.shape[axis]
        if length != size:
            windows = [(i * length // size, -(-(i + 1) * length // size)) for i in range(size)]
            means = [jax.lax.slice_in_dim(x, a, b, axis=axis).mean(axis) for a, b in windows]
            x = jnp.stack(means, axis)
    return x
