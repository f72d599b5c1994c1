"""Layers that several architectures share."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cv_jax.models import checks

ACTIVATIONS = {
    "relu": nn.relu,
    # The references use the exact form; Flax's default is the tanh approximation.
    "gelu": lambda x: nn.gelu(x, approximate=False),
    "gelu_tanh": lambda x: nn.gelu(x, approximate=True),
    "quick_gelu": lambda x: x * nn.sigmoid(1.702 * x),  # of OpenAI's CLIP
    "silu": nn.silu,
    "tanh": nn.tanh,
    "sigmoid": nn.sigmoid,
}


def activation(name: str):
    """Return an activation function by name.

    Raises:
      ValueError: the name is not in `ACTIVATIONS`.
    """
    checks.one_of("activation", name, ACTIVATIONS)
    return ACTIVATIONS[name]


POOLINGS = ("mean", "max", "mean_max", "concat")


def pool(x: jax.Array, kind: str, axes: tuple[int, ...]) -> jax.Array:
    """Pool the positions of a map or of tokens to features.

    Args:
      x: [..., C].
      kind: "mean", "max"; "mean_max": the average of mean and maximum; "concat": mean and maximum
        side by side, [..., 2·C].
      axes: of the positions.

    Raises:
      ValueError: the kind is not in `POOLINGS`.
    """
    checks.one_of("pool", kind, POOLINGS)
    if kind == "mean":
        return x.mean(axis=axes)
    if kind == "max":
        return x.max(axis=axes)
    both = x.mean(axis=axes), x.max(axis=axes)
    return (both[0] + both[1]) / 2 if kind == "mean_max" else jnp.concatenate(both, axis=-1)


def at_least_float32(x: jax.Array) -> jax.Array:
    """Cast to float32; float64 stays float64, so that tests can compare gradients."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def drop_path(key: jax.Array, x: jax.Array, rate: float | jax.Array) -> jax.Array:
    """Drop a branch for whole examples: stochastic depth (Huang et al., 2016, arXiv:1603.09382).

    Kept branches are divided by the probability of keeping, which preserves the expectation.

    Args:
      key: PRNG key.
      x: the branch [B, ...].
      rate: probability of dropping one example's branch; may be traced.
    """
    shape = (len(x),) + (1,) * (x.ndim - 1)
    keep = jax.random.bernoulli(key, 1.0 - rate, shape)
    return jnp.where(keep, x / (1.0 - rate), 0).astype(x.dtype)


class DropPath(nn.Module):
    """`drop_path` as a layer; the identity in evaluation.

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
    """Return rates that grow linearly from 0 at the first block to `rate` at the last block."""
    return [float(r) for r in np.linspace(0.0, rate, depth)]


class Mlp(nn.Module):
    """Feed-forward block of a Transformer: dense layer, activation, dense layer.

    Attributes:
      hidden_dim: width of the hidden layer.
      act: one of `ACTIVATIONS`.
      dropout_rate: dropped share after each layer.
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
