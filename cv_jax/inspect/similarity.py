"""Similarity of representations: linear CKA between layers and between networks, neighbours.

Kornblith et al., "Similarity of neural network representations revisited", ICML 2019,
arXiv:1905.00414. The estimator over minibatches is that of Nguyen et al., 2021, arXiv:2010.15327,
section 3: the unbiased HSIC of Song et al. (2012) is averaged over minibatches, so only Gram
matrices of one minibatch are in memory, and the result does not depend on the size of a minibatch,
except for its variance.
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cv_jax.inspect import network, places

LEAST = 4  # examples of a minibatch; the unbiased estimator divides by n − 3


class Similarity(NamedTuple):
    """CKA between the layers of one network and of another.

    Attributes:
      rows: features of the first network.
      columns: features of the second network.
      cka: float64 [rows, columns], at most one; the unbiased estimate of a small value may be
        negative.
    """

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    cka: np.ndarray


def cka(
    model: nn.Module,
    variables: Mapping,
    batches: Iterable[Any],
    other: tuple[nn.Module, Mapping] | None = None,
) -> Similarity:
    """Return linear CKA between all layers of a network, or of two networks.

    Args:
      model: a module.
      variables: its variables.
      batches: float images [n, H, W, C], at least four in each batch; a pair of images, if the
        networks have other normalisations or sizes.
      other: module and variables of the second network; default: the first.

    Raises:
      ValueError: a batch has fewer than four examples, or there is no batch.
    """
    nets = [network.readable(model, variables)]
    if other is not None:
        nets.append(network.readable(*other))
    sums, names = None, ()
    for batch in batches:
        images = batch if isinstance(batch, tuple) else (batch,) * len(nets)
        if len(images[0]) < LEAST:
            raise ValueError(f"CKA needs at least {LEAST} images in a batch, got {len(images[0])}")
        grams, names = [], []
        for (net, weights), x in zip(nets, images, strict=True):
            found = _layers(net, weights, x)
            names.append(tuple(found))
            grams.append(jnp.stack([_centred_gram(x) for x in found.values()]))
        first, second = grams[0], grams[-1]
        parts = (_hsic(first, second), _own(first), _own(second))
        parts = [np.asarray(x, np.float64) for x in parts]
        sums = parts if sums is None else [a + b for a, b in zip(sums, parts, strict=True)]
    if sums is None:
        raise ValueError("CKA needs at least one batch")
    between, rows, columns = sums
    scale = np.sqrt(np.maximum(rows[:, None] * columns[None, :], 0))
    values = np.divide(between, scale, out=np.full_like(between, np.nan), where=scale > 0)
    return Similarity(names[0], names[-1], values)


def _layers(model, variables, images) -> dict[str, jax.Array]:
    _, found = network.features(model, variables, images)
    return {name: x for name, x in found.items() if not places.is_attention(name)}


@jax.jit
def _centred_gram(x: jax.Array) -> jax.Array:
    """Return the Gram matrix of examples, prepared for the unbiased HSIC: float32 [n, n].

    The U-centred matrix of Székely and Rizzo (2014): zero diagonal, rows and columns with sum zero.
    The unbiased HSIC is then the mean product of two such matrices over n·(n − 3).
    """
    x = x.reshape(len(x), -1).astype(jnp.float32)
    x = x - x.mean(axis=0)  # changes nothing exactly, and keeps rounding errors small
    n = len(x)
    gram = (x @ x.T) * (1 - jnp.eye(n))
    rows = gram.sum(axis=1, keepdims=True) / (n - 2)
    total = gram.sum() / ((n - 1) * (n - 2))
    return (gram - rows - rows.T + total) * (1 - jnp.eye(n))


@jax.jit
def _hsic(first: jax.Array, second: jax.Array) -> jax.Array:
    """[a, n, n] and [b, n, n] → unbiased HSIC [a, b]."""
    n = first.shape[-1]
    return jnp.einsum("aij,bij->ab", first, second) / (n * (n - 3))


@jax.jit
def _own(grams: jax.Array) -> jax.Array:
    n = grams.shape[-1]
    return jnp.einsum("aij,aij->a", grams, grams) / (n * (n - 3))


def nearest_neighbours(
    queries: np.ndarray, examples: np.ndarray, count: int = 5
) -> tuple[np.ndarray, np.ndarray]:
    """Return the examples with the largest cosine to each query.

    Args:
      queries: float [Q, D].
      examples: float [N, D].
      count: neighbours for each query.

    Returns:
      `(indices int [Q, count], cosines float32 [Q, count])`, the nearest first; of equal cosines
      the smaller index first.
    """

    def unit(x):
        x = np.asarray(x, np.float32)
        return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)

    cosines = unit(queries) @ unit(examples).T
    order = np.argsort(-cosines, axis=1, kind="stable")[:, :count]
    return order, np.take_along_axis(cosines, order, axis=1)


PROJECTIONS = ("pca", "tsne", "umap")
FEWEST_POINTS = 3  # of a projection


def project(features: np.ndarray, method: str = "pca", seed: int = 0) -> np.ndarray:
    """Return points of the plane for features [N, D]: float64 [N, 2].

    Args:
      features: float [N, D].
      method: "pca" or "tsne" of scikit-learn, or "umap" of the optional package umap-learn.
      seed: of the start of t-SNE and UMAP.

    Raises:
      ValueError: the method is unknown, or there are too few examples.
      ImportError: umap-learn is not installed.
    """
    features = np.asarray(features, np.float64)
    if method not in PROJECTIONS:
        raise ValueError(f"unknown projection {method!r}; allowed: {', '.join(PROJECTIONS)}")
    if len(features) < FEWEST_POINTS:
        raise ValueError(
            f"a projection needs at least {FEWEST_POINTS} examples, got {len(features)}"
        )
    if method == "pca":
        from sklearn.decomposition import PCA

        return PCA(2, svd_solver="full").fit_transform(features)
    if method == "tsne":
        from sklearn.manifold import TSNE

        perplexity = min(30.0, (len(features) - 1) / 3)
        return TSNE(2, perplexity=perplexity, init="pca", random_state=seed).fit_transform(features)
    import umap

    return umap.UMAP(n_components=2, random_state=seed).fit_transform(features)
