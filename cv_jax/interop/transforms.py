"""Layout transforms between the arrays of a reference and the arrays here, with exact inverses.

PyTorch stores kernels as [out, in, height, width] and matrices as [out, in]; Flax as
[height, width, in, out] and [in, out].
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np


class Transform(NamedTuple):
    """A pair of inverse functions.

    Attributes:
      load: the reference's arrays → a tuple of arrays here.
      export: arrays here → a tuple of the reference's arrays.
    """

    load: Callable[..., tuple[np.ndarray, ...]]
    export: Callable[..., tuple[np.ndarray, ...]]


def one_to_one(load: Callable, export: Callable) -> Transform:
    """A transform of one array on each side."""
    return Transform(lambda x: (load(x),), lambda x: (export(x),))


SAME = one_to_one(lambda x: x, lambda x: x)
LINEAR = one_to_one(lambda x: x.T, lambda x: x.T)
CONV = one_to_one(lambda x: x.transpose(2, 3, 1, 0), lambda x: x.transpose(3, 2, 0, 1))


def linear_after_flatten(height: int, width: int) -> Transform:
    """A linear layer on a flattened map: reference [out, C·H·W], here [H·W·C, out].

    PyTorch flattens channels first, so the rows are permuted too.
    """

    def load(x):
        x = x.reshape(len(x), -1, height, width).transpose(2, 3, 1, 0)
        return x.reshape(-1, x.shape[-1])

    def export(x):
        x = x.reshape(height, width, -1, x.shape[-1]).transpose(3, 2, 0, 1)
        return x.reshape(len(x), -1)

    return one_to_one(load, export)


def linear_from_conv(height: int, width: int) -> Transform:
    """A kernel as large as its map, reference [out, C, H, W], here a matrix [H·W·C, out]."""

    def load(x):
        return x.transpose(2, 3, 1, 0).reshape(-1, len(x))

    def export(x):
        return x.reshape(height, width, -1, x.shape[-1]).transpose(3, 2, 0, 1)

    return one_to_one(load, export)
