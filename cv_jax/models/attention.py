"""Softmax attention of all Transformers.

Vaswani et al., "Attention is all you need", NeurIPS 2017, arXiv:1706.03762, section 3.2: scores
are the products of queries and keys, a softmax turns scores into weights, and the output is the
weighted mean of the values, for several heads in parallel.

Implementations: `"xla"` is two matrix products with a softmax between them. The axis of the
heads is before the axis of the tokens; on CPU this layout is more than twice as fast as the
opposite order. `"cudnn"` is the fused kernel of `jax.nn.dot_product_attention`, which does not
write the weights to memory. It needs an NVIDIA GPU and half precision, and cannot return the
weights. `"auto"` is `"cudnn"` where that works, else `"xla"`; see `chosen`.
"""

import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from cv_jax.models import checks

IMPLEMENTATIONS = ("xla", "cudnn", "auto")
SCALES = ("sqrt", "none")

# Registry facts of all Transformers (see `Entry`). They are shared, because a teacher is placed on
# the mesh with the axes of its student.
FUSED = {"qkv": 3, "kv": 2}
# The first product of a block is split by columns and the second by rows, so a block needs one sum
# over the devices for each pair.
_FIRST = r"attn/qkv|attn/[qkv]_proj|pool/(q|kv)|mlp/fc1|linear1"
_SECOND = r"attn/proj|attn/out_proj|pool/proj|mlp/fc2|linear2"
TENSOR_AXES: dict[str, tuple[str | None, ...]] = {
    rf"({_FIRST})/kernel": (None, "model"),
    rf"({_FIRST})/bias": ("model",),
    rf"({_SECOND})/kernel": ("model", None),
}


def check_implementation(implementation: str, attention_weights: bool = False) -> None:
    """Check the fields of an attention layer.

    Raises:
      ValueError: the implementation is unknown, or it cannot return attention weights.
    """
    checks.one_of("attention implementation", implementation, IMPLEMENTATIONS)
    if implementation == "cudnn" and attention_weights:
        raise ValueError("attention_weights needs implementation 'xla'; 'cudnn' cannot return them")


def chosen(implementation: str, dtype: jax.typing.DTypeLike, head_dim: int) -> str:
    """Return the implementation that runs: for "auto" the fused kernel if it can run, else "xla".

    The kernel needs an NVIDIA GPU, half precision, and heads of at most 128 channels, a multiple of
    eight. On an H200 it makes a training step of ViT-B/16 1.3 times as fast as "xla"
    (`benchmarks/results/gpu/README.md`). Its rounding differs.
    """
    if implementation != "auto":
        return implementation
    half = jnp.dtype(dtype) in (jnp.bfloat16, jnp.float16)
    fits = head_dim % 8 == 0 and head_dim <= 128
    return "cudnn" if half and fits and _on_nvidia() else "xla"


def _on_nvidia() -> bool:
    return jax.default_backend() == "gpu" and "NVIDIA" in jax.devices()[0].device_kind


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
        broadcasts to the scores.
      bias: added to the scores; broadcasts to [B, heads, Tq, Tk].
      mask: True where a query attends to a key; broadcasts likewise. A query without any key gets
        the unweighted mean of the values.
      implementation: one of `IMPLEMENTATIONS`; "auto" is "xla" with a bias or mask.

    Returns:
      `(output [B, heads, Tq, head_dim], weights [B, heads, Tq, Tk])`. Rows of the weights sum to
      one; under `"cudnn"` the weights are `None`. Scores and softmax are at least float32.

    Raises:
      ValueError: `"cudnn"` without an NVIDIA GPU or with a dtype other than bfloat16 and float16.
    """
    if scale is None:
        scale = 1 / math.sqrt(q.shape[-1])
    if implementation == "auto" and not (bias is None and mask is None):
        implementation = "xla"
    if chosen(implementation, q.dtype, q.shape[-1]) == "cudnn":
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
            f"attention implementation 'cudnn' needs an NVIDIA GPU, but JAX runs "
            f"on {jax.default_backend()!r}; use 'xla'"
        )
    q, k, v = (jnp.swapaxes(x, 1, 2) for x in (q, k, v))
    arguments = dict(bias=bias, mask=mask)
    queries, keys = q.shape[1], k.shape[1]
    if (queries % 2 or keys % 2) and bias is None and mask is None:
        # The kernel's backward pass needs even numbers of queries and keys. A token of zeros, which
        # the lengths exclude, makes an odd number even.
        q, k, v = (jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, 0), (0, 0))) for x in (q, k, v))
        lengths = (jnp.full(len(q), length, jnp.int32) for length in (queries, keys))
        arguments = dict(zip(("query_seq_lengths", "key_value_seq_lengths"), lengths, strict=True))
    out = jax.nn.dot_product_attention(q, k, v, **arguments, scale=scale, implementation="cudnn")
    return jnp.swapaxes(out[:, :queries], 1, 2)


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

    Parameters are those of one `nn.Dense(count · D)`, as in published weights. The outputs have a
    separate axis for the layers: under tensor parallelism, which splits the channels of each layer
    over devices, only the kernel is rearranged, and no array with a batch axis.

    Attributes:
      count: number of layers.
      use_bias: whether the layers have biases.
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
    """Multi-head self-attention with a fused projection to queries, keys and values.

    Attributes:
      num_heads: number of heads; must divide the width.
      qk_norm: LayerNorm of each head's queries and keys (Dehghani et al., 2023, arXiv:2302.05442,
        section 2), which limits the growth of the scores in training.
      scale: "sqrt" divides the scores by √head_dim; "none" does not (for comparisons).
      dropout_rate: dropped share of the output projection.
      implementation: one of `IMPLEMENTATIONS`.
      dtype: dtype of the computation.
      param_dtype: dtype of the parameters.
    """

    num_heads: int
    qk_norm: bool = False
    scale: str = "sqrt"
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
        scale = 1.0 if self.scale == "none" else None
        out, weights = attend(q, k, v, scale=scale, implementation=self.implementation)
        out = nn.Dense(dim, **dense, name="proj")(merge_heads(out))
        return nn.Dropout(self.dropout_rate, deterministic=not train)(out), weights
