"""Muon: momentum whose matrices are made orthogonal before they are used.

Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024,
https://kellerjordan.github.io/posts/muon: every matrix of Nesterov's momentum is replaced by about
the nearest one with equal singular values, found by five Newton-Schulz iterations.

Dense kernels are matrices [in, out]; a fused kernel of queries, keys and values is one matrix for
each; a convolution's kernel is flattened to [height · width · in, out]. Everything else (vectors,
tokens, positions, embeddings, the first layer and the heads) is for another optimiser: AdamW.

An orthogonal matrix [m, n] has a root mean square of 1/√max(m, n). Updates are multiplied by
0.2·√max(m, n), so that learning rate and weight decay mean for matrices what they mean for AdamW
(Liu et al., 2025, arXiv:2502.16982, section 2.2). Jordan's own factor is √max(1, n/m).
"""

import math
import re

import jax
import jax.numpy as jnp
import optax

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5
UPDATE_RMS = 0.2  # of AdamW's updates

FUSED = {"qkv": 3, "kv": 2}  # name of a layer → matrices side by side in its kernel
# The first layer, which reads pixels, and the last: not hidden ones.
ENDS = re.compile(r"(patch_embed|conv1|features_0|c1|fc1|head\w*|decoder_pred)/.*")


def is_matrix(name: str, shape: tuple[int, ...]) -> bool:
    """Whether Muon updates the parameter of that name and shape (without an axis of layers)."""
    return name.split("/")[-1] == "kernel" and len(shape) in (2, 4) and not ENDS.fullmatch(name)


def orthogonalise(x: jax.Array) -> jax.Array:
    """Matrices [..., m, n] → with singular values between about 0.7 and 1.2, in float32."""
    x = x.astype(jnp.float32)
    wide = x.shape[-2] <= x.shape[-1]
    x = x if wide else x.mT
    x = x / (jnp.linalg.norm(x, axis=(-2, -1), keepdims=True) + 1e-7)
    a, b, c = COEFFICIENTS
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x if wide else x.mT


def _update(name: str, x: jax.Array, stacked: bool) -> jax.Array:
    """The scaled orthogonal update of one parameter."""
    parts = FUSED.get(name.split("/")[-2], 1)
    layers, columns = x.shape[0] if stacked else 1, x.shape[-1] // parts
    matrices = x.reshape(layers, -1, parts, columns).swapaxes(1, 2)  # [layers, parts, m, n]
    factor = UPDATE_RMS * math.sqrt(max(matrices.shape[-2:]))
    return (factor * orthogonalise(matrices)).swapaxes(1, 2).reshape(x.shape).astype(x.dtype)


def scale_by_muon(
    momentum: float, moment_dtype: str, stacked: set[str]
) -> optax.GradientTransformation:
    """Nesterov's momentum, then an orthogonal update for every matrix.

    Args:
      momentum: decay of the sum of gradients.
      moment_dtype: dtype that the sum is kept in.
      stacked: names of the parameters whose first axis is that of scanned layers.
    """

    def orthogonal(updates, params):
        def one(path, x):
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            return _update(name, x, name in stacked)

        return jax.tree_util.tree_map_with_path(one, updates)

    trace = optax.trace(momentum, nesterov=True, accumulator_dtype=moment_dtype)
    return optax.chain(trace, optax.stateless(orthogonal))
