"""Attention, in one place.

Vaswani et al., "Attention is all you need", NeurIPS 2017, arXiv:1706.03762, section 3.2: every
query is compared with every key, a softmax turns the scores into weights, and the output is the
mean of the values under those weights, for several heads side by side.

Two implementations. `"xla"` is two matrix products with a softmax between them; heads stand before
tokens, a layout that runs more than twice as fast on CPU as tokens before heads. `"cudnn"` is the
fused kernel behind `jax.nn.dot_product_attention`, which never writes the weights to memory: it
wants an NVIDIA GPU and half precision, and can not return the weights.
"""

import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from cv_jax.models import checks

IMPLEMENTATIONS = ("xla", "cudnn")


def check_implementation(implementation: str, attention_weights: bool = False) -> None:
    """Whether the fields of an attention layer fit together.

    Raises:
      ValueError: no such implementation, or one that can not return its weights is asked to.
    """
    checks.one_of("attention implementation", implementation, IMPLEMENTATIONS)
    if implementation == "cudnn" and attention_weights:
        raise ValueError("attention_weights needs implementation 'xla': 'cudnn' never forms them")


def attend(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *,
    scale: float | jax.Array | None = None,
    bias: jax.Array | None = None,
    mask: jax.Array | None = None,
    implementation: str = "xla",
) -> tuple[jax.Array, jax.Array | None]:
    """Softmax attention of queries over keys and values, per head.

    Args:
      q: queries [B, heads, Tq, head_dim]; under "xla" also with more leading axes, as windows.
      k: keys [B, heads, Tk, head_dim].
      v: values [B, heads, Tk, head_dim].
      scale: factor of the scores, 1/sqrt(head_dim) by default; under "xla" also an array that
        broadcasts to them.
      bias: added to the scores; broadcasts to [B, heads, Tq, Tk].
      mask: True where a query may look; broadcasts likewise. A query that may look nowhere gets the
        plain mean of the values.
      implementation: one of `IMPLEMENTATIONS`.

    Returns:
      `(output [B, heads, Tq, head_dim], weights [B, heads, Tq, Tk])`; the weights, whose rows sum
      to one, are None under `"cudnn"`. Scores and softmax are at least float32.

    Raises:
      ValueError: `"cudnn"` without an NVIDIA GPU or with a dtype other than bfloat16 and float16.
    """
    if scale is None:
        scale = 1 / math.sqrt(q.shape[-1])
    if implementation == "cudnn":
        return _attend_cudnn(q, k, v, scale, bias, mask), None
    precise = jnp.promote_types(q.dtype, jnp.float32)
    scores = scale * jnp.einsum("...qd,...kd->...qk", q, k, preferred_element_type=precise)
    if bias is not None:
        scores = scores + bias.astype(precise)
    if mask is not None:
        scores = jnp.where(mask, scores, jnp.finfo(precise).min)
    weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    return jnp.einsum("...qk,...kd->...qd", weights, v), weights


def _attend_cudnn(q, k, v, scale, bias, mask):
    if q.dtype not in (jnp.bfloat16, jnp.float16):
        raise ValueError(f"attention implementation 'cudnn' needs dtype bfloat16, got {q.dtype}")
    if jax.default_backend() != "gpu":
        raise ValueError(
            f"attention implementation 'cudnn' needs an NVIDIA GPU, this is "
            f"{jax.default_backend()!r}: use 'xla'"
        )
    q, k, v = (jnp.swapaxes(x, 1, 2) for x in (q, k, v))
    out = jax.nn.dot_product_attention(
        q, k, v, bias=bias, mask=mask, scale=scale, implementation="cudnn"
    )
    return jnp.swapaxes(out, 1, 2)


def split_heads(x: jax.Array, num_heads: int) -> jax.Array:
    """[..., T, heads · head_dim] → [..., heads, T, head_dim]."""
    x = x.reshape(*x.shape[:-1], num_heads, x.shape[-1] // num_heads)
    return jnp.swapaxes(x, -2, -3)


def merge_heads(x: jax.Array) -> jax.Array:
    """[..., heads, T, head_dim] → [..., T, heads · head_dim]."""
    x = jnp.swapaxes(x, -2, -3)
    return x.reshape(*x.shape[:-2], -1)


class FusedDense(nn.Module):
    """Several dense layers of the input's width, side by side in one kernel.

    Parameters are those of one `nn.Dense(count · D)`, as published weights have them. The outputs
    get an axis of their own: where the channels of each are split over devices, as heads are in
    tensor parallelism, only the kernel has to be rearranged and never what depends on the batch.

    Attributes:
      count: layers.
      use_bias: whether they have biases.
      kernel_init: initialiser of the kernel [D, count · D].
      dtype: dtype of the computation.
      param_dtype: dtype of the parameters.
    """

    count: int
    use_bias: bool = True
    kernel_init: Callable = nn.initializers.xavier_uniform()
    dtype: str = "float32"
    param_dtype: str = "float32"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., D] → [..., count, D]."""
        dim = x.shape[-1]
        shape = dim, self.count * dim
        kernel, bias = self.param("kernel", self.kernel_init, shape, self.param_dtype), None
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, shape[1:], self.param_dtype)
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
        y = jnp.einsum("...i,ico->...co", x, kernel.reshape(dim, self.count, dim))
        return y if bias is None else y + bias.reshape(self.count, dim)


class Attention(nn.Module):
    """Multi-head self-attention with one fused projection to queries, keys and values.

    Attributes:
      num_heads: heads; must divide the width.
      qk_norm: LayerNorm of each head's queries and keys before they are compared (Dehghani et al.,
        2023, arXiv:2302.05442, section 2), which keeps the scores from growing in training.
      dropout_rate: dropped share of the output projection.
      implementation: one of `IMPLEMENTATIONS`.
      dtype: dtype of the computation.
      param_dtype: dtype of the parameters.
    """

    num_heads: int
    qk_norm: bool = False
    dropout_rate: float = 0.0
    implementation: str = "xla"
    dtype: str = "float32"
    param_dtype: str = "float32"

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> tuple[jax.Array, jax.Array | None]:
        """Tokens [B, T, D] → `(tokens [B, T, D], weights [B, heads, T, T] or None)`."""
        dim = x.shape[-1]
        types = dict(dtype=self.dtype, param_dtype=self.param_dtype)
        dense = dict(kernel_init=nn.initializers.xavier_uniform(), **types)
        qkv = FusedDense(3, **dense, name="qkv")(x)
        q, k, v = (split_heads(qkv[..., i, :], self.num_heads) for i in range(3))
        if self.qk_norm:
            q = nn.LayerNorm(epsilon=1e-6, **types, name="q_norm")(q)
            k = nn.LayerNorm(epsilon=1e-6, **types, name="k_norm")(k)
        out, weights = attend(q, k, v, implementation=self.implementation)
        out = nn.Dense(dim, **dense, name="proj")(merge_heads(out))
        return nn.Dropout(self.dropout_rate, deterministic=not train)(out), weights
