"""Attention over the image: maps, distance and entropy.

All layers have one form: windows of tokens, each token with its place in the image. A layer of a
ViT has one window with all tokens. Windows of a Swin keep their form, because a matrix over all
pairs of its tokens is large (see `matrix`); the places undo rolls and padding.
"""

from collections.abc import Mapping
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from scipy import special

from cv_jax.inspect import network, places

# Ends of the names of features: the queries are not in the image; nor are the keys.
CROSS, SEQUENCE = "cross_attention", "self_attention"
NO_PLACE, PADDING = -1, -2  # a token outside the image, such as a class token; padding of a window


class Layer(NamedTuple):
    """Attention weights of one layer over the image.

    Attributes:
      name: of the feature.
      weights: float32 [B, windows, heads, Tq, Tk] on the host; rows sum to one.
      queries: int [B, windows, Tq], place of every query, row by row; else `NO_PLACE` or `PADDING`.
      keys: the same of the keys [B, windows, Tk].
      shape: (rows, columns) of the places.
      patch: (height, width) of a place in pixels.
    """

    name: str
    weights: np.ndarray
    queries: np.ndarray
    keys: np.ndarray
    shape: tuple[int, int]
    patch: tuple[float, float]


def layers(
    model: nn.Module, variables: Mapping, images: jax.Array, *others: jax.Array
) -> list[Layer]:
    """Return the attention of every layer whose keys are places in the image, in forward order.

    Fused attention and scanned blocks are recomputed in a readable form (see `network.readable`).

    Args:
      model: any module whose first input is an image.
      variables: its variables.
      images: float [B, H, W, C], normalised.
      *others: further inputs, such as the noise of a masked autoencoder [B, patches].

    Returns:
      The layers; an empty list for a model without attention over image tokens.
    """
    model, variables = network.readable(model, variables)
    known = network.shapes(model, variables, images, *others)
    names = [n for n in known if places.is_attention(n) and not n.endswith(SEQUENCE)]
    if not names:
        return []
    _, features = network.features(model, variables, images, *others)
    size = images.shape[1:3]
    weights = {name: np.asarray(features[name], np.float32) for name in names}
    if hasattr(model, "window_tokens"):
        tokens = model.window_tokens(size)
        shapes = {name: features[name.removesuffix("/attention")].shape[1:3] for name in weights}
        return [
            _of_windows(name, x, tokens[name], shapes[name], size) for name, x in weights.items()
        ]
    # Other inputs may move the tokens of each image: a mask from noise removes patches. Tokens of a
    # sequence do not.
    moved = any(jnp.issubdtype(x.dtype, jnp.floating) for x in others)
    count = len(images) if moved else 1
    grids = [
        places.token_grid(model, tuple(x[i : i + 1] for x in (images, *others)), size)
        for i in range(count)
    ]
    if grids[0] is None:
        return []
    tokens = np.stack([grid.places() for grid in grids])
    tokens = np.broadcast_to(tokens, (len(images), grids[0].length))[:, None]
    return [
        _of_sequence(name, x, tokens, grids[0])
        for name, x in weights.items()
        if x.shape[-1] == grids[0].length
    ]


def sequence_layers(
    model: nn.Module, variables: Mapping, images: jax.Array, *others: jax.Array
) -> dict[str, np.ndarray]:
    """Return the attention between the tokens of a sequence, as in a decoder, in forward order.

    Args:
      model: any module whose first input is an image.
      variables: its variables.
      images: float [B, H, W, C], normalised.
      *others: further inputs, such as the target tokens int [B, T].

    Returns:
      Name of the feature → float32 [B, heads, T, T], rows of queries that sum to one; empty for a
      model without such a layer.
    """
    model, variables = network.readable(model, variables)
    _, features = network.features(model, variables, images, *others)
    return {n: np.asarray(x, np.float32) for n, x in features.items() if n.endswith(SEQUENCE)}


def _of_windows(name, weights, tokens, shape, image_size) -> Layer:
    index = np.broadcast_to(np.where(tokens < 0, PADDING, tokens), (len(weights), *tokens.shape))
    patch = tuple(side / count for side, count in zip(image_size, shape, strict=True))
    return Layer(name, weights, index, index, tuple(shape), patch)


def _of_sequence(name, weights, tokens, grid) -> Layer:
    queries = tokens
    if name.endswith(CROSS):
        queries = np.full((len(weights), 1, weights.shape[-2]), NO_PLACE)
    return Layer(name, weights[:, None], queries, tokens, grid.tokens.shape, grid.patch)


def centre_columns(layer: Layer) -> np.ndarray:
    """Return the centre of what each query reads, from left to right in pixels: float64 [B, T].

    Of a layer with one window, the mean of its heads. Keys without a place are left out, and the
    weights of the others are scaled to the sum one.
    """
    weights = np.asarray(layer.weights, np.float64)[:, 0].mean(axis=1)
    keys = layer.keys[:, 0]
    columns = (keys % layer.shape[1] + 0.5) * layer.patch[1]
    placed = weights * (keys >= 0)[:, None]
    return (placed * columns[:, None]).sum(axis=-1) / placed.sum(axis=-1)


def mean_distance(layer: Layer) -> np.ndarray:
    """Return the mean attention distance of each head in pixels: float64 [heads].

    The distance between the centres of query and key, weighted by the attention, as in figure 7
    (right) of the ViT paper (arXiv:2010.11929): the mean over images and queries. Tokens without a
    place are left out, and the weights of the other keys are scaled to the sum one. NaN if no query
    has a place, as in cross-attention.
    """
    queries = int((layer.queries >= 0).sum())
    if not queries:
        return np.full(layer.weights.shape[2], np.nan)
    centres = np.stack(np.indices(layer.shape), axis=-1).reshape(-1, 2) * np.array(layer.patch)
    totals = np.zeros(layer.weights.shape[2])
    for weights, own, keys in zip(layer.weights, layer.queries, layer.keys, strict=True):
        apart = centres[own][:, :, None] - centres[keys][:, None]
        distance = np.hypot(apart[..., 0], apart[..., 1]).astype(np.float32)
        weights = weights * (keys >= 0)[:, None, None]
        mean = np.einsum("whqk,wqk->whq", weights, distance)
        mean /= np.maximum(weights.sum(axis=-1), 1e-30)
        totals += (mean * (own >= 0)[:, None]).sum(axis=(0, 2), dtype=np.float64)
    return totals / queries


def entropy(layer: Layer) -> np.ndarray:
    """Return the mean entropy of each head's rows in nats: float64 [heads].

    0: every query reads one key. ln(Tk): every query reads all keys equally.
    """
    counted, totals = layer.queries != PADDING, np.zeros(layer.weights.shape[2])
    for weights, own in zip(layer.weights, counted, strict=True):
        terms = special.entr(weights).sum(axis=-1)
        totals += (terms * own[:, None]).sum(axis=(0, 2), dtype=np.float64)
    return totals / int(counted.sum())


def matrix(layer: Layer) -> jax.Array:
    """Return the attention between all places: float32 [B, heads, places, places].

    Windows are put back into the whole map; pairs in different windows have weight 0. Tokens
    without a place are left out. The memory grows with the square of the number of places.

    Raises:
      ValueError: the queries of the layer have no places.
    """
    count = layer.shape[0] * layer.shape[1]
    if (layer.queries < 0).all():
        raise ValueError(f"{layer.name}: its queries have no places in the image")

    @jax.vmap
    def whole(weights, queries, keys):
        # The additional row and column take the tokens without a place.
        result = jnp.zeros((weights.shape[1], count + 1, count + 1), weights.dtype)
        result = result.at[:, queries[:, :, None], keys[:, None, :]].set(
            jnp.moveaxis(weights, 1, 0)
        )
        return result[:, :count, :count]

    return whole(layer.weights, _or_last(layer.queries, count), _or_last(layer.keys, count))


def _or_last(index: np.ndarray, count: int) -> np.ndarray:
    """Replace the marks of tokens without a place by `count`."""
    return np.where(index < 0, count, index)


def key_maps(layer: Layer, values: jax.Array | np.ndarray) -> np.ndarray:
    """Put values of a layer's keys into the image.

    Args:
      layer: gives the places.
      values: [B, windows, Tk] or [B, heads, windows, Tk].

    Returns:
      float32 [B, rows, columns] or [B, heads, rows, columns]; places without a key are 0.
    """
    values, count = np.asarray(values, np.float32), layer.shape[0] * layer.shape[1]
    maps = np.zeros((*values.shape[:-2], count + 1), np.float32)
    for image, keys in enumerate(_or_last(layer.keys, count)):
        maps[image][..., keys.reshape(-1)] = values[image].reshape(*values.shape[1:-2], -1)
    return maps[..., :count].reshape(*maps.shape[:-1], *layer.shape)


def in_windows(layer: Layer, maps: np.ndarray) -> np.ndarray:
    """Return the values of a map at a layer's keys: [B, rows, columns] → [B, windows, Tk].

    The inverse of `key_maps`; tokens without a place get 0.
    """
    flat = np.pad(np.asarray(maps).reshape(len(maps), -1), ((0, 0), (0, 1)))
    index = _or_last(layer.keys, flat.shape[1] - 1).reshape(len(flat), -1)
    return np.take_along_axis(flat, index, axis=1).reshape(layer.keys.shape)


def place_maps(layer: Layer, query: int) -> np.ndarray:
    """Return what one place reads: float32 [B, heads, rows, columns].

    Args:
      layer: the layer.
      query: the place, counted row by row.
    """
    rows = np.einsum("bwhqk,bwq->bhwk", layer.weights, (layer.queries == query).astype(np.float32))
    return key_maps(layer, rows)


def token_maps(layer: Layer, token: int) -> np.ndarray:
    """Return what one token of each window reads, as token 0, the class token of a ViT.

    Returns:
      float32 [B, heads, rows, columns].
    """
    return key_maps(layer, np.moveaxis(layer.weights[..., token, :], 2, 1))


def received(layer: Layer) -> np.ndarray:
    """Return the mean attention that each place receives: float32 [B, heads, rows, columns]."""
    counted = (layer.queries != PADDING).astype(np.float32)
    total = np.maximum(counted.sum(axis=-1), 1)
    rows = np.einsum("bwhqk,bwq->bhwk", layer.weights, counted)
    return key_maps(layer, rows / total[:, None, :, None])
