"""Layers that several architectures share."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cv_jax.models import checks

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


def at_least_float32(x: jax.Array) -> jax.Array:
    """Logits leave a model in float32 however it computes; float64 stays, to compare gradients."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def drop_path(key: jax.Array, x: jax.Array, rate: float | jax.Array) -> jax.Array:
    """Stochastic depth (Huang et al., 2016, arXiv:1603.09382): drops a branch for whole examples.

    The kept branches are divided by the probability of keeping, so that the expectation stays.

    Args:
      key: PRNG key.
      x: the branch [B, ...].
      rate: probability of dropping one example's branch; may be traced.
    """
    shape = (len(x),) + (1,) * (x.ndim - 1)
    keep = jax.random.bernoulli(key, 1.0 - rate, shape)
    return jnp.where(keep, x / (1.0 - rate), 0).astype(x.dtype)


class DropPath(nn.Module):
    """`drop_path` as a layer that does nothing in evaluation.

    Attributes:
      rate: probability of dropping one example's branch.

    Rngs: `dropout` when training with `rate` > 0.
    """

    rate: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        if not train or self.rate == 0.0:
            return x
        return drop_path(self.make_rng("dropout"), x, self.rate)


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
      kernel_init: initialiser of both kernels.
      bias_init: initialiser of both biases.
    """

    hidden_dim: int
    act: str = "gelu"
    dropout_rate: float = 0.0
    dtype: str = "float32"
    param_dtype: str = "float32"
    kernel_init: Callable = nn.initializers.xavier_uniform()
    bias_init: Callable = nn.initializers.normal(1e-6)

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        dense = dict(
            kernel_init=self.kernel_init,
            bias_init=self.bias_init,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
        )
        dim = x.shape[-1]
        checks.positive("the inner width of an MLP", [self.hidden_dim])
        x = activation(self.act)(nn.Dense(self.hidden_dim, **dense, name="fc1")(x))
        x = nn.Dropout(self.dropout_rate, deterministic=not train)(x)
        x = nn.Dense(dim, **dense, name="fc2")(x)
        return nn.Dropout(self.dropout_rate, deterministic=not train)(x)
