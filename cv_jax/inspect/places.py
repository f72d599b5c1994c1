"""Places of tokens in the image, from the traced program.

Each token of the first feature with a sequence of tokens depends on the pixels of one patch, so the
receptive fields of its units (see `receptive_field.py`) give the place of every token. Class
tokens, distillation tokens and registers depend on no pixel and have no place. A masked autoencoder
has tokens for some of the patches.
"""

from collections.abc import Mapping
from typing import NamedTuple

import flax.linen as nn
import jax
import numpy as np

from cv_jax.inspect import receptive_field


class Grid(NamedTuple):
    """Places of a sequence of tokens.

    Attributes:
      tokens: int [rows, columns], index of the token at each place; −1 where there is no token.
      patch: (height, width) of a place in pixels.
      length: number of tokens, with those that have no place.
    """

    tokens: np.ndarray
    patch: tuple[int, int]
    length: int

    def complete(self) -> bool:
        """Whether there is a token at every place."""
        return bool((self.tokens >= 0).all())

    def places(self) -> np.ndarray:
        """Return the place of every token, counted row by row: int [T]; −1 without a place."""
        found = np.full(self.length, -1)
        tokens = self.tokens.reshape(-1)
        found[tokens[tokens >= 0]] = np.flatnonzero(tokens >= 0)
        return found

    def centres(self) -> np.ndarray:
        """Return the centre of every place in pixels: float [rows, columns, 2], (row, column)."""
        index = np.stack(np.indices(self.tokens.shape), axis=-1)
        return (index + 0.5) * np.array(self.patch)


def token_grid(model: nn.Module, inputs: tuple, image_size: tuple[int, int]) -> Grid | None:
    """Return the places of a model's tokens; `None` for a model without tokens [B, T, D].

    Args:
      model: a module whose first input is an image.
      inputs: valid inputs of one example; the image gives channels and dtype, the others (such as
        the noise of a masked autoencoder) are constants.
      image_size: (height, width) of the image.

    Raises:
      NotImplementedError: a primitive of the model has no dependence rule.
    """
    rows, columns = (receptive_field.intervals(model, inputs, image_size, axis) for axis in (0, 1))
    for name, found in rows.items():
        if found.ndim != 3 or found.shape[0] == 1 and columns[name].shape[0] == 1:
            continue
        ends = [
            np.broadcast_to(x[:, 0], (max(len(found), len(columns[name])), 2))
            for x in (found, columns[name])
        ]
        grid = _grid(*ends, image_size)
        if grid is not None:
            return grid
    return None


def _grid(rows: np.ndarray, columns: np.ndarray, image_size: tuple[int, int]) -> Grid | None:
    """Return the grid of tokens with these first and last rows and columns, int [T, 2]."""
    placed = np.flatnonzero(rows[:, 0] >= 0)
    if not len(placed):
        return None
    patch = tuple(int((x[placed, 1] - x[placed, 0]).max()) + 1 for x in (rows, columns))
    shape = tuple(-(-side // length) for side, length in zip(image_size, patch, strict=True))
    row, column = rows[placed, 0] // patch[0], columns[placed, 0] // patch[1]
    tokens = np.full(shape, -1)
    tokens[row, column] = placed
    if len(placed) != (tokens >= 0).sum():  # overlapping fields: not a grid of patches
        return None
    return Grid(tokens, patch, len(rows))


def is_attention(name: str) -> bool:
    """Whether a feature holds attention weights."""
    return name.endswith("attention")


def to_map(feature: jax.Array, grid: Grid | None) -> jax.Array | None:
    """Return a feature as a map [B, rows, columns, D]; `None` if its units have no places.

    Maps [B, H, W, D] of more than one unit are returned unchanged. Places without a token are zero.
    """
    if feature.ndim == 4 and feature.shape[1] * feature.shape[2] > 1:
        return feature
    if feature.ndim == 3 and grid is not None and feature.shape[1] == grid.length:
        placed = feature[:, np.maximum(grid.tokens, 0)]
        return placed * (grid.tokens >= 0)[None, :, :, None]
    return None


def maps(features: Mapping[str, jax.Array], grid: Grid | None) -> dict[str, jax.Array]:
    """Return the features that are maps; see `to_map`. Attention weights are not."""
    found = {name: to_map(x, grid) for name, x in features.items() if not is_attention(name)}
    return {name: x for name, x in found.items() if x is not None}
