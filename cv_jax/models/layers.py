"""Layers that several architectures share."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

ACTIVATIONS = {
    "relu": nn.relu,
    # The exact form: Flax's default is the tanh approximation, every reference uses erf.
    "gelu": lambda x: nn.gelu(x, approximate=False),
    "gelu_tanh": lambda x: nn.gelu(x, approximate=True),
    "silu": nn.silu,
    "tanh": nn.tanh,
    "sigmoid": nn.sigmoid,
}


def activation(name: str):
    """The activation function of that name.

    Raises:
      ValueError: there is none; the message lists the names.
    """
    if name not in ACTIVATIONS:
        raise ValueError(f"unknown activation {name!r}; allowed: {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]


class DropPath(nn.Module):
    """Stochastic depth (Huang et al., 2016, arXiv:1603.09382): drops a branch for whole examples.

    The kept branches are divided by the probability of keeping, so that the expectation stays.

    Attributes:
      rate: probability of dropping one example's branch.

    Rngs: `dropout` when training with `rate` > 0.
    """

    rate: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        if not train or self.rate == 0.0:
            return x
        shape = (len(x),) + (1,) * (x.ndim - 1)
        keep = jax.random.bernoulli(self.make_rng("dropout"), 1.0 - self.rate, shape)
        return jnp.where(keep, x / (1.0 - self.rate), 0)


def drop_path_rates(rate: float, depth: int) -> list[float]:
    """Rates growing linearly from 0 at the first block to `rate` at the last."""
    return [float(r) for r in np.linspace(0.0, rate, depth)]


class Mlp(nn.Module):
    """The Transformer's feed-forward block: expand, non-linearity, project back.

    Attributes:
      hidden_dim: width of the expansion.
      act: one of `ACTIVATIONS`.
      dropout_rate: dropped share after each of the two layers.
      dtype: dtype of the computation.
      param_dtype: dtype of the parameters.
    """

    hidden_dim: int
    act: str = "gelu"
    dropout_rate: float = 0.0
    dtype: str = "float32"
    param_dtype: str = "float32"

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        dense = dict(
            kernel_init=nn.initializers.xavier_uniform(),
            bias_init=nn.initializers.normal(1e-6),
            dtype=self.dtype,
            param_dtype=self.param_dtype,
        )
        dim = x.shape[-1]
        x = activation(self.act)(nn.Dense(self.hidden_dim, **dense, name="fc1")(x))
        x = nn.Dropout(self.dropout_rate, deterministic=not train)(x)
        x = nn.Dense(dim, **dense, name="fc2")(x)
        return nn.Dropout(self.dropout_rate, deterministic=not train)(x)


def attend(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    """Softmax attention of [B, heads, T, head_dim] queries over keys and values.

    Scores and softmax are float32 whatever the inputs are. Heads stand before tokens: on CPU that
    layout runs more than twice as fast as `jax.nn.dot_product_attention`'s.
    """
    scores = jnp.einsum("bhqd,bhkd->bhqk", q, k, preferred_element_type=jnp.float32)
    weights = jax.nn.softmax(scores / math.sqrt(q.shape[-1]), axis=-1).astype(v.dtype)
    return jnp.einsum("bhqk,bhkd->bhqd", weights, v)


class Attention(nn.Module):
    """Multi-head self-attention with a fused projection to queries, keys and values.

    Attributes:
      num_heads: heads; must divide the width.
      dropout_rate: dropped share of the output projection.
      dtype: dtype of the computation.
      param_dtype: dtype of the parameters.
    """

    num_heads: int
    dropout_rate: float = 0.0
    dtype: str = "float32"
    param_dtype: str = "float32"

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Attention among the tokens of [B, T, D]."""
        batch, tokens, dim = x.shape
        dense = dict(
            kernel_init=nn.initializers.xavier_uniform(),
            dtype=self.dtype,
            param_dtype=self.param_dtype,
        )
        qkv = nn.Dense(3 * dim, **dense, name="qkv")(x)
        qkv = qkv.reshape(batch, tokens, 3, self.num_heads, dim // self.num_heads)
        q, k, v = qkv.transpose(2, 0, 3, 1, 4)
        x = attend(q, k, v).transpose(0, 2, 1, 3).reshape(batch, tokens, dim)
        x = nn.Dense(dim, **dense, name="proj")(x)
        return nn.Dropout(self.dropout_rate, deterministic=not train)(x)


def sincos_2d(height: int, width: int, dim: int) -> np.ndarray:
    """Fixed 2-D sine-cosine positions [height·width, dim], float32, row-major.

    As in MAE (He et al., 2021): the first half of the channels encodes the column, the second the
    row, each as [sin, cos] of the index times 10000^(−i/(dim/4)).

    Raises:
      ValueError: `dim` is not a multiple of 4.
    """
    if dim % 4:
        raise ValueError(f"sin-cos positions need a width that is a multiple of 4, got {dim}")
    omega = 10000.0 ** (-np.arange(dim // 4) / (dim / 4))
    row, column = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")

    def encode(index):
        angle = index.reshape(-1, 1) * omega
        return np.concatenate([np.sin(angle), np.cos(angle)], axis=1)

    return np.concatenate([encode(column), encode(row)], axis=1).astype(np.float32)
