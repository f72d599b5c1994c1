"""Attention rollout: the share of every place in the tokens from which a model predicts.

Abnar and Zuidema, "Quantifying attention flow in Transformers", ACL 2020, arXiv:2005.00928. Every
layer passes on its tokens and the mean of its heads' attention, half and half; rollout is the
product of all layers. Here one row of the product is computed, from the last layer to the first, so
the matrices of a Swin over the whole image are never built.
"""

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cv_jax.inspect import attention, network
from cv_jax.inspect.attention import PADDING, Layer


def rollout(model: nn.Module, variables: Mapping, images: jax.Array) -> np.ndarray | None:
    """Return the share of every place: float32 [B, rows, columns].

    The product starts with equal shares of the tokens in the last block that the logits depend on:
    the class token, or all patches. A merged token of a Swin passes its share to its parts
    equally. Shares of tokens without a place, as of the class token, are left out.

    Args:
      model: a classifier.
      variables: its variables.
      images: float [B, H, W, C], normalised.

    Returns:
      The shares; `None` for a model without attention over image tokens.
    """
    found = attention.layers(model, variables, images)
    if not found:
        return None
    shares, after = _start(model, variables, images, found[-1]), found[-1]
    for layer in reversed(found):
        if layer.shape != after.shape or not np.array_equal(layer.keys, after.keys):
            maps = _unmerge(attention.key_maps(after, shares), layer.shape)
            shares = attention.in_windows(layer, maps)
        shares, after = _mix(layer.weights, layer.queries != PADDING, shares), layer
    return attention.key_maps(after, shares)


def _start(model, variables, images, last: Layer) -> np.ndarray:
    """Return equal shares of the tokens that the logits depend on: float32 [B, windows, T]."""
    model, variables = network.readable(model, variables)
    name = last.name.removesuffix("/attention")
    classes = jnp.zeros(len(images), int)
    _, gradients = network.feature_gradients(model, variables, images, classes, (name,))
    used = np.asarray(jnp.abs(gradients[name]).max(axis=-1) > 0, np.float32)
    if used.ndim == 3:  # a map
        used = attention.in_windows(last, used)
    used = used.reshape(last.keys.shape)
    return used / np.maximum(used.sum(axis=(1, 2), keepdims=True), 1)


@jax.jit
def _mix(weights: jax.Array, kept: jax.Array, shares: jax.Array) -> jax.Array:
    """Shares of a layer's outputs [B, windows, T] → shares of its inputs."""
    attended = weights.mean(axis=2) * kept[:, :, None, :]
    attended = attended / jnp.maximum(attended.sum(axis=-1, keepdims=True), 1e-30)
    return (shares + jnp.einsum("bwq,bwqk->bwk", shares, attended)) / 2


def _unmerge(maps: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Divide the share of every merged token equally between its parts.

    Args:
      maps: [B, rows, columns].
      shape: (rows, columns) before the merging, the same or up to twice as large.
    """
    for axis, (merged, parts) in enumerate(zip(maps.shape[1:], shape, strict=True), 1):
        size = -(-parts // merged)
        counts = np.minimum(size, parts - size * np.arange(merged))
        maps = maps / np.expand_dims(counts, [i for i in (0, 1, 2) if i != axis])
        maps = maps.repeat(size, axis).take(np.arange(parts), axis)
    return maps
