"""Theoretical receptive fields, layer by layer, from the traced program.

The receptive field of a unit is the smallest rectangle of pixels that holds all that the unit can
depend on. The edges of the image cut it short, so its size is measured on an image that is some
thousands of pixels longer; how much of an image of the usual size a unit sees stands beside it.
"""

import math
from collections import OrderedDict
from typing import NamedTuple

import flax.linen as nn
import jax
import numpy as np

from cv_jax.inspect.dependence import NOTHING, Field, dependence

LONG = (2048, 8192)  # pixels that are added to an image, at least; the second if the first is short


class Layer(NamedTuple):
    """The receptive field of one layer.

    Attributes:
      name: of the feature; "output" is what the model returns.
      shape: of the feature, without the batch.
      size: rows and columns of pixels that a unit reads, the largest of all units whose field the
        edges of the image do not cut. None is the whole image: they cut that of every unit, however
        large the image (up to 8192 pixels more), or the model takes images of one size only and
        some unit reads all of them.
      stride: rows and columns from one position of a map to the next; None for what is no map.
      seen: share of the image that a unit sees at the size asked for, the mean over all units.
    """

    name: str
    shape: tuple[int, ...]
    size: tuple[int, int] | None
    stride: tuple[int, int] | None
    seen: float


def intervals(
    model: nn.Module, inputs: tuple, image_size: tuple[int, int], axis: int
) -> OrderedDict[str, np.ndarray]:
    """The rows, or columns, that each unit of each feature can depend on, in evaluation.

    Args:
      model: a module of the registry whose first input is an image.
      inputs: valid inputs; the image gives channels and dtype, the others are constants.
      image_size: height and width of the image.
      axis: 0 for rows, 1 for columns.

    Returns:
      Feature → int [..., 2], the axes those of the feature without the batch, of length 1 where all
      units are alike: first and last row or column, or −1 and −1 where a unit depends on no pixel.
      The last is "output".

    Raises:
      NotImplementedError: the model holds a primitive that `dependence` does not know.
      ValueError: the model does not take an image of this size.
    """
    fields = _trace(model, inputs, image_size, axis)
    return OrderedDict((name, _ends(field)) for name, field in fields.items())


def layers(model: nn.Module, inputs: tuple, image_size: tuple[int, int]) -> list[Layer]:
    """The receptive field of every feature of a model, in forward order.

    Arguments and errors are those of `intervals`.
    """
    usual = [_trace(model, inputs, image_size, axis) for axis in (0, 1)]
    longer = _longer(model, inputs, image_size)
    found = []
    for name, field in usual[0].items():
        rows, columns = (_lengths(_ends(fields[name])) for fields in usual)
        seen = float((rows * columns).mean() / (image_size[0] * image_size[1]))
        if longer is None:
            size, stride = (int(rows.max()), int(columns.max())), None
            size = None if size == image_size else size
        else:
            size = tuple(_size(trace.fields[name], trace.length) for trace in longer)
            size = None if None in size else size
            stride = _stride(name, field, longer)
        found.append(Layer(name, field.shape[1:], size, stride, seen))
    return found


class _Longer(NamedTuple):
    """The fields of an image that was made longer along one axis."""

    fields: OrderedDict[str, Field]
    length: int
    added: int


def _longer(model, inputs, image_size) -> list[_Longer] | None:
    """A taller and a wider image; None for a model made for one size."""
    height, width = image_size
    try:
        _shapes(model, inputs, (height + _added(height, LONG[0]), width))
    except ValueError:
        return None
    return [_lengthened(model, inputs, image_size, axis) for axis in (0, 1)]


def _added(side: int, long: int) -> int:
    """At least `long` pixels. Windows that fill the side without a rest still fill it with so many
    more, and strides divide them."""
    unit = math.lcm(side, 64)
    return -(-long // unit) * unit


def _lengthened(model, inputs, image_size, axis) -> _Longer:
    for long in LONG:
        added = _added(image_size[axis], long)
        size = list(image_size)
        size[axis] += added
        fields = _trace(model, inputs, tuple(size), axis)
        maps = [field for field in fields.values() if len(field.shape) == 4]
        if all(_size(field, size[axis]) is not None for field in maps):
            break
    return _Longer(fields, size[axis], added)


def _size(field: Field, length: int) -> int | None:
    """The longest interval that stops before the edges of an image of that length."""
    ends = _ends(field)
    if (ends < 0).all():
        return 0
    clear = (ends[..., 0] > 0) & (ends[..., 1] < length - 1)
    return int(_lengths(ends)[clear].max()) if clear.any() else None


def _stride(name, field, longer) -> tuple[int, int] | None:
    """Pixels more for each position more."""
    if len(field.shape) != 4:
        return None
    positions = [longer[i].fields[name].shape[1 + i] - field.shape[1 + i] for i in (0, 1)]
    return tuple(longer[i].added // positions[i] for i in (0, 1)) if all(positions) else None


def _shapes(model, inputs, image_size):
    """Shapes of the image and of the variables."""
    image, *others = inputs
    image = jax.ShapeDtypeStruct((1, *image_size, image.shape[-1]), image.dtype)
    rngs = {name: jax.random.key(0) for name in ("params", "dropout", "mask")}
    return image, jax.eval_shape(lambda x: model.init(rngs, x, *others), image)


def _trace(model, inputs, image_size, axis) -> OrderedDict[str, Field]:
    image, variables = _shapes(model, inputs, image_size)

    def run(variables, image):
        rngs = {"mask": jax.random.key(0)}
        output, features = model.apply(variables, image, *inputs[1:], train=False, rngs=rngs)
        return OrderedDict(features, output=output)

    return dependence(run, (variables, image), image=1, axis=1 + axis)


def _ends(field: Field) -> np.ndarray:
    first, last = field.planes[0, 0], -field.planes[1, 0]
    return np.stack([np.where(first == NOTHING, -1, x) for x in (first, last)], axis=-1)


def _lengths(ends: np.ndarray) -> np.ndarray:
    return np.where(ends[..., 0] < 0, 0, ends[..., 1] - ends[..., 0] + 1)
