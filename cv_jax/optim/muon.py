"""Muon: momentum with orthogonalised matrices.

Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024,
https://kellerjordan.github.io/posts/muon: every matrix of the Nesterov momentum is replaced by an
approximation of the nearest matrix with equal singular values, from five Newton-Schulz iterations.

Dense kernels are matrices [in, out]. A fused kernel (queries, keys and values) is split into its
matrices. A convolution kernel is flattened to [height · width · in, out], one matrix per group. All
other parameters (vectors, tokens, positions, embeddings, first layers, heads) are updated by AdamW;
see `parameter_rules.matrices_of`.

An orthogonal matrix [m, n] has a root mean square of 1/√max(m, n). Updates are multiplied by
0.2·√max(m, n), so learning rate and weight decay have the same meaning as for AdamW (Liu et al.,
2025, arXiv:2502.16982, section 2.2). The factor of Jordan et al. is √max(1, n/m).
"""

import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import optax

from cv_jax.optim.parameter_rules import Treatment

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5
UPDATE_RMS = 0.2  # of AdamW's updates


def orthogonalise(x: jax.Array) -> jax.Array:
    """Map matrices [..., m, n] to float32 matrices with singular values of about 0.7 to 1.2."""
    x = x.astype(jnp.float32)
    wide = x.shape[-2] <= x.shape[-1]
    x = x if wide else x.mT
    x = x / (jnp.linalg.norm(x, axis=(-2, -1), keepdims=True) + 1e-7)
    a, b, c = COEFFICIENTS
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x if wide else x.mT


def _update(x: jax.Array, parts: int, stacked: bool) -> jax.Array:
    """Return the scaled orthogonal update of a kernel with `parts` matrices side by side."""
    layers, columns = x.shape[0] if stacked else 1, x.shape[-1] // parts
    matrices = x.reshape(layers, -1, parts, columns).swapaxes(1, 2)  # [layers, parts, m, n]
    factor = UPDATE_RMS * math.sqrt(max(matrices.shape[-2:]))
    return (factor * orthogonalise(matrices)).swapaxes(1, 2).reshape(x.shape).astype(x.dtype)


def scale_by_muon(
    momentum: float, moment_dtype: str, treatments: Mapping[str, Treatment]
) -> optax.GradientTransformation:
    """Nesterov momentum, then an orthogonal update of every matrix.

    Args:
      momentum: decay of the sum of gradients.
      moment_dtype: dtype of the sum.
      treatments: treatment of every parameter, by name.
    """

    def orthogonal(updates, params):
        def one(path, x):
            found = treatments[jax.tree_util.keystr(path, simple=True, separator="/")]
            return _update(x, found.matrices, found.stacked)

        return jax.tree_util.tree_map_with_path(one, updates)

    trace = optax.trace(momentum, nesterov=True, accumulator_dtype=moment_dtype)
    return optax.chain(trace, optax.stateless(orthogonal))
