"""Saliency maps without gradients: the model is run on images with hidden parts.

Hidden pixels are 0, the mean of the normalisation.
"""

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cv_jax.inspect import network

BATCH = 64  # images in one run of the model


def occlusion(
    model: nn.Module,
    variables: Mapping,
    images: jax.Array,
    classes: jax.Array,
    *,
    window: int | None = None,
    stride: int | None = None,
) -> np.ndarray:
    """Return the fall of a class's probability when a square is hidden.

    Zeiler and Fergus, 2014, arXiv:1311.2901, section 4.2. A pixel gets the mean fall over all
    squares that hide it.

    Args:
      model: a classifier.
      variables: its variables.
      images: float [B, H, W, C], normalised.
      classes: int [B].
      window: side of the square in pixels; default: an eighth of the shorter side, at least 1.
      stride: pixels between two squares; default: half of `window`, at least 1.

    Returns:
      float32 [B, H, W].
    """
    height, width = images.shape[1:3]
    window = window or max(min(height, width) // 8, 1)
    stride = stride or max(window // 2, 1)
    visible = []
    for top in _starts(height, window, stride):
        for left in _starts(width, window, stride):
            mask = np.ones((height, width), np.float32)
            mask[top : top + window, left : left + window] = 0
            visible.append(mask)
    visible = np.stack(visible)
    whole = probability(model, variables, images, classes)
    falls = whole[:, None] - _masked(model, variables, images, classes, visible)
    hidden = 1 - visible
    return np.einsum("bm,mhw->bhw", falls, hidden) / hidden.sum(axis=0)


def rise(
    model: nn.Module,
    variables: Mapping,
    images: jax.Array,
    classes: jax.Array,
    *,
    masks: int = 1000,
    cells: int = 7,
    visible: float = 0.5,
    seed: int = 0,
) -> np.ndarray:
    """Return RISE: the mean of random masks, weighted by the class's probability under each mask.

    Petsiuk et al., 2018, arXiv:1806.07421. A mask is a random grid of zeros and ones, enlarged
    linearly and moved by less than one cell.

    Args:
      model: a classifier.
      variables: its variables.
      images: float [B, H, W, C], normalised.
      classes: int [B].
      masks: number of masks.
      cells: cells of the grid along each side.
      visible: probability that a cell is visible.
      seed: of the masks.

    Returns:
      float32 [B, H, W].
    """
    drawn = rise_masks(masks, images.shape[1:3], cells, visible, seed)
    scores = _masked(model, variables, images, classes, drawn)
    return np.einsum("bm,mhw->bhw", scores, drawn) / (masks * visible)


def rise_masks(
    count: int, size: tuple[int, int], cells: int, visible: float, seed: int
) -> np.ndarray:
    """Return the masks of RISE: float32 [count, *size] in 0…1."""
    rng = np.random.default_rng(seed)
    cell = [-(-side // cells) for side in size]
    shape = [(cells + 1) * side for side in cell]
    masks = np.empty((count, *size), np.float32)
    for i in range(count):
        grid = (rng.random((cells, cells)) < visible).astype(np.float32)
        large = np.asarray(jax.image.resize(grid, shape, "linear"))
        top, left = (int(rng.integers(side)) for side in cell)
        masks[i] = large[top : top + size[0], left : left + size[1]]
    return masks


def probability(
    model: nn.Module, variables: Mapping, images: jax.Array, classes: jax.Array
) -> np.ndarray:
    """Return the probability of each image's class: float32 [B]."""
    logits, _ = network.features(model, variables, images)
    chosen = jnp.take_along_axis(jax.nn.softmax(logits), jnp.asarray(classes)[:, None], axis=1)
    return np.asarray(chosen[:, 0])


def _masked(model, variables, images, classes, masks) -> np.ndarray:
    """Return the probability of each image's class under each mask: float32 [B, masks]."""
    size = min(BATCH, len(masks))
    padded = np.concatenate([masks, np.ones((-len(masks) % size, *masks.shape[1:]), np.float32)])
    scores = np.empty((len(images), len(padded)), np.float32)
    for image in range(len(images)):
        several = jnp.full(size, classes[image])
        for start in range(0, len(padded), size):
            part = images[image] * padded[start : start + size, :, :, None]
            scores[image, start : start + size] = probability(model, variables, part, several)
    return scores[:, : len(masks)]


def _starts(length: int, window: int, stride: int) -> list[int]:
    """Return the starts of windows that cover an axis; the last window ends at its end."""
    last = max(length - window, 0)
    return [*range(0, last, stride), last]
