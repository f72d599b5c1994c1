"""Batch normalisation as PyTorch defines it.

Ioffe and Szegedy, "Batch normalization: Accelerating deep network training by reducing internal
covariate shift", ICML 2015, arXiv:1502.03167. Each channel is normalised to mean 0 and variance 1
over the batch and all positions, then scaled and shifted by two learnt numbers. Evaluation uses
running averages of both statistics.

The layer of Flax averages the biased variance. The paper (Algorithm 2), PyTorch and this layer
normalise by the biased variance and average the unbiased variance, so that weights from PyTorch
continue to train as in PyTorch.
"""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from cv_jax.models.layers import at_least_float32


class BatchNorm(nn.Module):
    """Normalise the last axis over all other axes.

    In a jitted program with sharded arrays, the statistics are over the global batch, for any
    number of devices. In the per-device view (`shard_map`, `pmap`) they are over the shard of the
    device, or over the mesh axis `axis_name`.

    Attributes:
      momentum: weight of the old running average; 0.9 here is 0.1 in PyTorch.
      epsilon: added to the variance.
      use_scale: whether the layer has a scale.
      use_bias: whether the layer has a shift.
      scale_init: initialiser of the scale.
      axis_name: mesh axis over which statistics are averaged in the per-device view, or `None`.
      dtype: dtype of the output; statistics are at least float32.
      param_dtype: dtype of scale and shift.

    Variables: `params/{scale,bias}` [C]; `batch_stats/{mean,var}` [C] float32, mutable in training.
    """

    momentum: float = 0.9
    epsilon: float = 1e-5
    use_scale: bool = True
    use_bias: bool = True
    scale_init: Callable = nn.initializers.ones
    axis_name: str | None = None
    dtype: str = "float32"
    param_dtype: str = "float32"

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """[..., C] → [..., C].

        Raises:
          ValueError: training with one value per channel, which has no variance.
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
        if self.use_scale:
            factor = factor * self.param("scale", self.scale_init, shape, self.param_dtype)
        y = (x - mean) * factor
        if self.use_bias:
            y = y + self.param("bias", nn.initializers.zeros, shape, self.param_dtype)
        return y.astype(self.dtype)

    def _batch_statistics(self, x: jax.Array, running_mean: jax.Array):
        """Return mean, biased variance, and the number of values per channel.

        One pass over x computes the means of (x − s) and (x − s)², with one all-reduce. The shift s
        is the running mean: without it, the variance as a difference of squares would lose digits
        where the mean is much larger than the deviation.
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
                f"batch of shape {x.shape}; use a larger batch or a larger image"
            )
        var = jnp.maximum(second - jnp.square(first), 0)
        return running_mean + first, var, count
