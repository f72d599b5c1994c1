"""Effective receptive field: how much each pixel matters to a unit.

Luo et al., "Understanding the effective receptive field in deep convolutional neural networks",
NeurIPS 2016, arXiv:1701.04128. The field of a layer is the absolute gradient of its central unit
(the sum of its channels) with respect to the pixels, averaged over images. It is smaller than
the theoretical field, close to a Gaussian, and grows with training.
"""

import functools
from collections.abc import Mapping
from typing import NamedTuple

import flax.linen as nn
import jax
import numpy as np

from cv_jax.inspect import network, places


class EffectiveField(NamedTuple):
    """Effective receptive field of one layer.

    Attributes:
      name: of the feature.
      field: float64 [H, W], absolute gradient averaged over images and channels, with the sum one.
      centre: (row, column), centre of mass in pixels.
      size: (rows, columns): side of the square with the same variance along each axis as the field,
        √12 standard deviations. A unit that depends on all pixels of a square equally has the side
        of the square.
      gaussian: (rows, columns): four standard deviations, the range of ±2, which contains 95 % of a
        Gaussian.
    """

    name: str
    field: np.ndarray
    centre: tuple[float, float]
    size: tuple[float, float]
    gaussian: tuple[float, float]


def effective_fields(
    model: nn.Module,
    variables: Mapping,
    images: jax.Array,
    *others: jax.Array,
    names: tuple[str, ...] | None = None,
    seed: int = 0,
) -> list[EffectiveField]:
    """Return the effective receptive field of the central unit of each layer, in forward order.

    Args:
      model: any module whose first input is an image.
      variables: its variables.
      images: float [B, H, W, C], normalised. The paper's images of the theory are noise.
      *others: further inputs of the model.
      names: features; default: all maps and sequences of image tokens.
      seed: of the random signs of the channels. Each channel of the unit gets a random sign for
        each image, as in the paper: an unsigned sum lets gradients cancel systematically.

    Raises:
      ValueError: a feature of `names` has no places in the image.
    """
    model, variables = network.readable(model, variables)
    grid = places.token_grid(model, tuple(x[:1] for x in (images, *others)), images.shape[1:3])
    shapes = network.shapes(model, variables, images, *others)
    zeros = {name: np.zeros(x.shape, x.dtype) for name, x in shapes.items()}
    known = places.maps(zeros, grid)
    if unknown := set(names or ()) - set(known):
        raise ValueError(f"no places in the image: {', '.join(sorted(unknown))}")
    names = tuple(names or known)

    zeros, found = {name: zeros[name] for name in names}, []
    for name in names:
        unit = _central_unit(zeros[name], grid, seed)
        slope = _pull_back(model, names, variables, {**zeros, name: unit}, images, *others)
        slope = np.asarray(slope, np.float64)
        found.append(summarise(name, np.abs(slope).sum(axis=-1).mean(axis=0)))
    return found


# One program for all layers and all checkpoints of a run: the cotangents choose the layer.
@functools.partial(jax.jit, static_argnums=(0, 1))
def _pull_back(model, names, variables, cotangents, images, *others):
    def chosen(images):
        features = network.features(model, variables, images, *others)[1]
        return {name: features[name] for name in names}

    return jax.vjp(chosen, images)[1](cotangents)[0]


def _central_unit(zeros: np.ndarray, grid: places.Grid | None, seed: int) -> np.ndarray:
    """Return zeros with a random sign for each channel of the central unit of each image."""
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], (len(zeros), zeros.shape[-1]))
    if zeros.ndim == 4:
        where = zeros.shape[1] // 2, zeros.shape[2] // 2
    else:
        where = (grid.tokens[grid.tokens.shape[0] // 2, grid.tokens.shape[1] // 2],)
    unit = zeros.copy()
    unit[:, *where] = signs
    return unit


def summarise(name: str, field: np.ndarray) -> EffectiveField:
    """Return the centre and the sizes of a field, float [H, W]; a field of zeros has size 0."""
    field = np.asarray(field, np.float64)
    total = field.sum()
    if not total > 0:
        return EffectiveField(name, field, (np.nan, np.nan), (0.0, 0.0), (0.0, 0.0))
    field, centre, deviation = field / total, [], []
    for axis, length in enumerate(field.shape):
        profile, index = field.sum(axis=1 - axis), np.arange(length)
        middle = float((profile * index).sum())
        # A pixel is a square of side one: its own variance along an axis is 1/12.
        deviation.append(float(np.sqrt((profile * (index - middle) ** 2).sum() + 1 / 12)))
        centre.append(middle)
    size = tuple(np.sqrt(12) * x for x in deviation)
    return EffectiveField(name, field, tuple(centre), size, tuple(4 * x for x in deviation))
