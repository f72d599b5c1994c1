"""Muon: momentum with orthogonalised matrices.

Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024,
https://kellerjordan.github.io/posts/muon: every matrix of the Nesterov momentum is replaced by an
approximation of the nearest matrix with equal singular values, from a few Newton-Schulz iterations.

Dense kernels are matrices [in, out]. A fused kernel (queries, keys and values) is split into its
matrices. A convolution kernel is flattened to [height · width · in, out], one matrix per group. All
other parameters (vectors, tokens, positions, embeddings, first layers, heads) are updated by AdamW,
or by SGD with `optim.others=sgd`; see `parameter_rules.matrices_of`.

An orthogonal matrix [m, n] has a root mean square of 1/√max(m, n). Updates are multiplied by
0.2·√max(m, n), so learning rate and weight decay have the same meaning as for AdamW (Liu et al.,
2025, arXiv:2502.16982, section 2.2). The factor of Jordan et al. is √max(1, n/m).

airbench (Jordan, 2024, `airbench94_muon.py`) has no factor (`optim.muon_scale=none`), three
iterations, and scales each matrix to a fixed norm before an update (`optim.muon_keep_norms`).
"""

import math
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import ml_collections
import optax

from cv_jax.optim.parameter_rules import Treatment

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
UPDATE_RMS = 0.2  # of AdamW's updates


def orthogonalise(x: jax.Array, iterations: int = 5) -> jax.Array:
    """Map matrices [..., m, n] to float32 matrices with singular values near 1.

    After five iterations they are about 0.7 to 1.2; small ones need more iterations.
    """
    x = x.astype(jnp.float32)
    wide = x.shape[-2] <= x.shape[-1]
    x = x if wide else x.mT
    x = x / (jnp.linalg.norm(x, axis=(-2, -1), keepdims=True) + 1e-7)
    a, b, c = COEFFICIENTS
    for _ in range(iterations):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x if wide else x.mT


def _matrices(x: jax.Array, treatment: Treatment) -> jax.Array:
    """Return the matrices of a kernel, which are side by side: [layers, parts, m, n]."""
    layers = x.shape[0] if treatment.stacked else 1
    columns = x.shape[-1] // treatment.matrices
    return x.reshape(layers, -1, treatment.matrices, columns).swapaxes(1, 2)


def _kernel(matrices: jax.Array, like: jax.Array) -> jax.Array:
    """Return the kernel of `_matrices`."""
    return matrices.swapaxes(1, 2).reshape(like.shape).astype(like.dtype)


def _each(function: Callable, treatments: Mapping[str, Treatment]) -> Callable:
    """Return `(tree, …) → tree`, which maps `function(treatment, leaf, …)` over the leaves."""

    def one(path, *leaves):
        return function(treatments[jax.tree_util.keystr(path, simple=True, separator="/")], *leaves)

    return lambda *trees: jax.tree_util.tree_map_with_path(one, *trees)


def scale_by_muon(
    c: ml_collections.ConfigDict, treatments: Mapping[str, Treatment]
) -> optax.GradientTransformation:
    """Nesterov momentum, then an orthogonal update of every matrix.

    Args:
      c: `config.optim`; reads `momentum`, `moment_dtype`, `muon_iterations` and `muon_scale`.
      treatments: treatment of every parameter, by name.
    """

    def orthogonal(treatment, x):
        matrices = _matrices(x, treatment)
        size = math.sqrt(max(matrices.shape[-2:])) * UPDATE_RMS if c.muon_scale == "rms" else 1.0
        return _kernel(size * orthogonalise(matrices, c.muon_iterations), x)

    run = _each(orthogonal, treatments)
    trace = optax.trace(c.momentum, nesterov=True, accumulator_dtype=c.moment_dtype)
    return optax.chain(trace, optax.stateless(lambda updates, params: run(updates)))


def keep_norms(treatments: Mapping[str, Treatment]) -> optax.GradientTransformation:
    """Scale every matrix [m, n] to the norm √n before its update; the last transformation.

    The root mean square of the weights of an output is then 1/√m.
    """

    def scaled(treatment, update, x):
        if not treatment.matrices:
            return update
        matrices = _matrices(x, treatment)
        norms = jnp.linalg.norm(matrices, axis=(-2, -1), keepdims=True)
        factor = math.sqrt(matrices.shape[-1]) / jnp.maximum(norms, 1e-30)
        return update + _kernel((factor - 1) * matrices, update)

    return optax.stateless(_each(scaled, treatments))
