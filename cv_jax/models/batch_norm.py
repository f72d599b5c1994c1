"""Batch normalisation as PyTorch defines it.

Ioffe and Szegedy, "Batch normalization: Accelerating deep network training by reducing internal
covariate shift", ICML 2015, arXiv:1502.03167. Each channel is brought to mean 0 and variance 1 over
the batch and all positions, then scaled and shifted by two learnt numbers; running averages of both
statistics stand in for the batch's at test time.

Flax's own layer averages the biased variance. The paper (Algorithm 2) and PyTorch average the
unbiased one while they normalise by the biased one, and so does this layer: weights carried over
from PyTorch train on as they would have there.
"""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from cv_jax.models.layers import at_least_float32


class BatchNorm(nn.Module):
    """Normalises the last axis over all other axes.

    In a jitted program whose arrays are sharded over devices, "all other axes" means the global
    batch: the program is the same on one device and on many. In the per-device view (`shard_map`,
    `pmap`) it means the device's own part, unless `axis_name` names the mesh axis to average over.

    Attributes:
      momentum: share of the old running average that stays; 0.9 is what PyTorch calls 0.1.
      epsilon: added to the variance.
      affine: whether to learn a scale and a shift.
      scale_init: initialiser of the scale.
      axis_name: mesh axis over which the per-device view shares its statistics, or None.
      dtype: dtype of the output; statistics are float32 whatever it is (float64 for float64).
      param_dtype: dtype of scale and shift.

    Variables: `params/{scale,bias}` [C]; `batch_stats/{mean,var}` [C] float32, to be passed as
    mutable in training.
    """

    momentum: float = 0.9
    epsilon: float = 1e-5
    affine: bool = True
    scale_init: Callable = nn.initializers.ones
    axis_name: str | None = None
    dtype: str = "float32"
    param_dtype: str = "float32"

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """[..., C] → [..., C].

        Raises:
          ValueError: training with a single value per channel, which has no variance.
        """
        shape = x.shape[-1:]
        stored = jnp.promote_types(jnp.float32, self.param_dtype)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, shape, stored)
        running_var = self.variable("batch_stats", "var", jnp.ones, shape, stored)
        x = at_least_float32(x)

        if train:
            mean, var, count = self._batch_statistics(x, running_mean.value)
            if not self.is_initializing():
                unbiased = var * (count / (count - 1))
                keep, new = self.momentum, 1 - self.momentum
                running_mean.value = keep * running_mean.value + new * mean.astype(stored)
                running_var.value = keep * running_var.value + new * unbiased.astype(stored)
        else:
            mean, var = running_mean.value, running_var.value

        factor = jax.lax.rsqrt(var + self.epsilon)
        if self.affine:
            factor = factor * self.param("scale", self.scale_init, shape, self.param_dtype)
        y = (x - mean) * factor
        if self.affine:
            y = y + self.param("bias", nn.initializers.zeros, shape, self.param_dtype)
        return y.astype(self.dtype)

    def _batch_statistics(self, x: jax.Array, running_mean: jax.Array):
        """Mean, biased variance, and the number of values per channel.

        Both come from one pass over x, as the means of (x − s) and (x − s)², and need one exchange
        between devices. The difference of squares would lose its digits where the mean is large
        beside the deviation; s, the running mean, takes that mean away.
        """
        axes = tuple(range(x.ndim - 1))
        count = x.size // x.shape[-1]
        shifted = x - running_mean
        first, second = shifted.mean(axes), jnp.square(shifted).mean(axes)
        if self.axis_name is not None and not self.is_initializing():
            first, second = jax.lax.pmean((first, second), self.axis_name)
            count *= jax.lax.axis_size(self.axis_name)
        if count < 2 and not self.is_initializing():
            raise ValueError(
                "batch normalisation needs more than one value per channel in training, got a "
                f"batch of shape {x.shape}: use a larger batch or a larger image"
            )
        var = jnp.maximum(second - jnp.square(first), 0)
        return running_mean + first, var, count
