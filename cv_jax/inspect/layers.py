"""Signals through the depth of a network: gradients, activations, dead units, rank.

The numbers of one layer are summarised over a batch, and can be followed over the checkpoints of a
run: a plain network of many layers loses its gradients, a residual network keeps them.
"""

from collections.abc import Mapping
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cv_jax.inspect import network, places


class LayerStatistics(NamedTuple):
    """Statistics of one feature over a batch.

    Attributes:
      name: of the feature.
      mean: of all activations.
      std: standard deviation of all activations.
      zeros: share of activations that are exactly zero, as after a ReLU.
      dead: share of channels that have one value for all examples and places.
      rank: effective rank of the channels (Roy and Vetterli, 2007): the exponential of the entropy
        of the normalised singular values of examples and places × channels, centred.
      channels: number of channels.
      gradient_norm: norm of the gradient of the mean loss with respect to the feature; NaN without
        labels.
    """

    name: str
    mean: float
    std: float
    zeros: float
    dead: float
    rank: float
    channels: int
    gradient_norm: float


def statistics(
    model: nn.Module,
    variables: Mapping,
    images: jax.Array,
    labels: jax.Array | None = None,
) -> list[LayerStatistics]:
    """Return the statistics of every feature, in forward order, in evaluation mode.

    Args:
      model: a module; a classifier for gradients.
      variables: its variables.
      images: float [B, H, W, C], normalised.
      labels: int [B], for gradients of the cross-entropy.
    """
    model, variables = network.readable(model, variables)
    shapes = network.shapes(model, variables, images)
    names = tuple(name for name in shapes if not places.is_attention(name))
    norms = dict.fromkeys(names, float("nan"))
    if labels is None:
        _, found = network.features(model, variables, images)
    else:
        found, gradients = network.feature_gradients(
            model, variables, images, jnp.asarray(labels), names, "cross_entropy"
        )
        norms = {k: float(jnp.linalg.norm(x.astype(jnp.float32))) for k, x in gradients.items()}
    return [_summarise(name, np.asarray(found[name]), norms[name]) for name in names]


def _summarise(name: str, feature: np.ndarray, norm: float) -> LayerStatistics:
    rows = feature.reshape(-1, feature.shape[-1]).astype(np.float64)
    spread = rows.max(axis=0) - rows.min(axis=0)
    return LayerStatistics(
        name,
        float(rows.mean()),
        float(rows.std()),
        float((rows == 0).mean()),
        float((spread == 0).mean()),
        effective_rank(rows),
        rows.shape[1],
        norm,
    )


def effective_rank(rows: np.ndarray) -> float:
    """Return exp(entropy of the normalised singular values) of centred rows [N, D]; 0 for zeros."""
    rows = np.asarray(rows, np.float64)
    centred = rows - rows.mean(axis=0)
    # The smaller of the two Gram matrices has the same singular values, squared.
    gram = centred.T @ centred if rows.shape[1] <= rows.shape[0] else centred @ centred.T
    values = np.sqrt(np.maximum(np.linalg.eigvalsh(gram), 0))
    values = values[values > values.max(initial=0) * 1e-7]
    if not len(values):
        return 0.0
    share = values / values.sum()
    return float(np.exp(-(share * np.log(share)).sum()))
