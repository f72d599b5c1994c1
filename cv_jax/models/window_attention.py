"""Swin's attention inside windows, in its two versions.

In version 1 (Liu et al., 2021, arXiv:2103.14030) scores are scaled dot products plus a bias from a
table of offsets. In version 2 (Liu et al., 2022, arXiv:2111.09883) scores are cosines, and a small
network computes the bias of each offset.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from cv_jax.models.attention import FusedDense, attend, merge_heads, split_heads
from cv_jax.models.layers import at_least_float32
from cv_jax.models.windows import Size, log_spaced_coordinates, relative_index

# PyTorch's trunc_normal_ truncates at ±2, which is 100 standard deviations: a normal distribution.
INIT = nn.initializers.normal(0.02)
ZEROS = nn.initializers.zeros


class WindowAttention(nn.Module):
    """Multi-head attention inside each window.

    Attributes:
      num_heads: number of heads.
      window: height and width of the windows.
      version: 1: scaled dot products, a table with one bias per offset. 2: cosines with a learned
        temperature, biases from a network of log-spaced offsets, no bias of the keys.
      pretrained_window: side of the window that scales the offsets; 0 for `window`.
      dropout_rate: dropped share of the output projection.
      dtype: dtype of the computation.
      param_dtype: dtype of the parameters.
    """

    num_heads: int
    window: Size
    version: int
    pretrained_window: int
    dropout_rate: float
    dtype: str
    param_dtype: str

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array | None, *, train: bool):
        """Windows [B, windows, T, D] → `(windows [B, windows, T, D], weights)`.

        `mask` [windows, 1, T, T] is added to the scores. Weights are [B, windows, heads, T, T].
        """
        dim, tokens = x.shape[-1], self.window[0] * self.window[1]
        types = dict(dtype=self.dtype, param_dtype=self.param_dtype)
        dense = dict(kernel_init=INIT, **types)
        qkv = FusedDense(3, use_bias=self.version == 1, **dense, name="qkv")(x)
        if self.version == 2:
            q_bias = self.param("q_bias", ZEROS, (dim,), self.param_dtype)
            v_bias = self.param("v_bias", ZEROS, (dim,), self.param_dtype)
            qkv += jnp.stack([q_bias, jnp.zeros_like(q_bias), v_bias]).astype(qkv.dtype)
        q, k, v = (split_heads(qkv[..., i, :], self.num_heads) for i in range(3))

        if self.version == 1:
            scale = 1 / math.sqrt(q.shape[-1])
            offsets = (2 * self.window[0] - 1) * (2 * self.window[1] - 1)
            shape = (offsets, self.num_heads)
            table = self.param("relative_position_bias_table", INIT, shape, self.param_dtype)
        else:
            q, k = _unit(q), _unit(k)
            init = nn.initializers.constant(math.log(10))
            scale = self.param("logit_scale", init, (self.num_heads, 1, 1), self.param_dtype)
            scale = jnp.exp(jnp.minimum(at_least_float32(scale), math.log(100)))
            table = log_spaced_coordinates(self.window, (self.pretrained_window,) * 2)
            table = nn.relu(nn.Dense(512, **dense, name="cpb_mlp_0")(table))
            table = nn.Dense(self.num_heads, use_bias=False, **dense, name="cpb_mlp_2")(table)
            table = 16 * nn.sigmoid(table)
        index = relative_index(self.window).reshape(-1)
        bias = table[index].reshape(tokens, tokens, self.num_heads).transpose(2, 0, 1)
        if mask is not None:
            bias = bias + mask
        out, weights = attend(q, k, v, scale=scale, bias=bias)
        out = nn.Dense(dim, **dense, name="proj")(merge_heads(out))
        return nn.Dropout(self.dropout_rate, deterministic=not train)(out), weights


def _unit(x: jax.Array) -> jax.Array:
    """Scale vectors to length one. Zero vectors (padding without a key bias) stay zero."""
    wide = at_least_float32(x)  # an error of the length would change all scores of a token
    squares = jnp.sum(wide * wide, axis=-1, keepdims=True)
    return (wide * jax.lax.rsqrt(jnp.maximum(squares, 1e-24))).astype(x.dtype)
