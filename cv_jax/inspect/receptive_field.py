"""Theoretical receptive fields, layer by layer, from the traced program.

The receptive field of a unit is the smallest rectangle that contains all pixels the unit can depend
on. Image edges clip it, so its size is measured on an image that is some thousands of pixels
longer. `Layer.seen` is measured on an image of the requested size.
"""

import functools
import math
from collections import OrderedDict
from typing import NamedTuple

import flax.linen as nn
import jax
import numpy as np
from flax.errors import FlaxError

from cv_jax.inspect.dependence import Program, dependence, trace
from cv_jax.inspect.primitives import NOTHING, Field

LONG = (2048, 8192)  # minimal numbers of added pixels; the second if edges still clip all fields


class Layer(NamedTuple):
    """Receptive field of one layer.

    Attributes:
      name: of the feature; "output" is the model's output.
      shape: of the feature, without the batch.
      size: (rows, columns) in pixels of the largest field that the image edges do not clip. `None`
        is the whole image: the edges clip every field, on images of up to 8192 more pixels, or the
        model has a fixed image size and some unit depends on all pixels.
      stride: (rows, columns) in pixels between neighbouring positions; `None` if the feature is not
        a map.
      seen: share of an image of the requested size that a unit depends on, mean over all units.
    """

    name: str
    shape: tuple[int, ...]
    size: tuple[int, int] | None
    stride: tuple[int, int] | None
    seen: float


def intervals(
    model: nn.Module, inputs: tuple, image_size: tuple[int, int], axis: int
) -> OrderedDict[str, np.ndarray]:
    """Return the rows, or columns, that each unit of a feature can depend on, in evaluation mode.

    Args:
      model: a module of the registry whose first input is an image.
      inputs: valid inputs; the image gives channels and dtype, the others are constants.
      image_size: (height, width) of the image.
      axis: 0 for rows, 1 for columns.

    Returns:
      Feature → int [..., 2]: first and last row or column, −1 and −1 if a unit depends on no pixel.
      The other axes are the axes of the feature without the batch, of length 1 where all units are
      equal. The last feature is "output".

    Raises:
      NotImplementedError: a primitive of the model has no dependence rule.
      ValueError: the model does not accept an image of this size.
    """
    fields = _trace(model, inputs, image_size, axis)
    return OrderedDict((name, _ends(field)) for name, field in fields.items())


def layers(model: nn.Module, inputs: tuple, image_size: tuple[int, int]) -> list[Layer]:
    """Return the receptive field of every feature of a model, in forward order.

    Arguments and errors are the same as in `intervals`.
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
    """Fields of an image that is longer along one axis."""

    fields: OrderedDict[str, Field]
    length: int
    added: int


def _longer(model, inputs, image_size) -> list[_Longer] | None:
    """Trace a taller and a wider image; `None` for a model with a fixed image size."""
    height, width = image_size
    try:
        taller = height + _added(height, LONG[0]), width
        _program(model, _Inputs.of(inputs), taller, image_size)
    except ValueError:
        return None
    return [_lengthened(model, inputs, image_size, axis) for axis in (0, 1)]


def _added(side: int, long: int) -> int:
    """Return the number of added pixels, at least `long`.

    The number is a multiple of the side and of 64: windows that fill the side exactly also fill the
    longer side, and strides divide it.
    """
    unit = math.lcm(side, 64)
    return -(-long // unit) * unit


def _lengthened(model, inputs, image_size, axis) -> _Longer:
    for long in LONG:
        added = _added(image_size[axis], long)
        size = list(image_size)
        size[axis] += added
        fields = _trace(model, inputs, tuple(size), axis, image_size)
        maps = [field for field in fields.values() if len(field.shape) == 4]
        if all(_size(field, size[axis]) is not None for field in maps):
            break
    return _Longer(fields, size[axis], added)


def _size(field: Field, length: int) -> int | None:
    """Longest interval that the edges of an image of this length do not clip."""
    ends = _ends(field)
    if (ends < 0).all():
        return 0
    clear = (ends[..., 0] > 0) & (ends[..., 1] < length - 1)
    return int(_lengths(ends)[clear].max()) if clear.any() else None


def _stride(name, field, longer) -> tuple[int, int] | None:
    """Added pixels per added position."""
    if len(field.shape) != 4:
        return None
    positions = [longer[i].fields[name].shape[1 + i] - field.shape[1 + i] for i in (0, 1)]
    return tuple(longer[i].added // positions[i] for i in (0, 1)) if all(positions) else None


class _Inputs(NamedTuple):
    """Inputs of a model as a key of a cache: the image without its size, and the constants."""

    channels: int
    dtype: np.dtype
    constants: tuple[tuple[bytes, np.dtype, tuple[int, ...]], ...]

    @classmethod
    def of(cls, inputs: tuple) -> "_Inputs":
        image, *others = inputs
        constants = [np.asarray(x) for x in others]
        return cls(
            image.shape[-1],
            np.dtype(image.dtype),
            tuple((x.tobytes(), x.dtype, x.shape) for x in constants),
        )

    def arrays(self) -> list[np.ndarray]:
        return [np.frombuffer(x, dtype).reshape(shape) for x, dtype, shape in self.constants]


# Most analyses of a network need the fields of the same features, and rows and columns have one
# program: the tracing takes most of the time.
@functools.lru_cache(maxsize=16)
def _variables(model: nn.Module, inputs: _Inputs, image_size: tuple[int, int]):
    """Abstract variables."""
    image = jax.ShapeDtypeStruct((1, *image_size, inputs.channels), inputs.dtype)
    rngs = {name: jax.random.key(0) for name in ("params", "dropout", "mask")}
    others = inputs.arrays()
    return jax.eval_shape(lambda x: model.init(rngs, x, *others), image)


@functools.lru_cache(maxsize=16)
def _program(
    model: nn.Module, inputs: _Inputs, image_size: tuple[int, int], like: tuple[int, int]
) -> Program:
    """Trace the network on images of a size; the variables of the size `like` are tried first.

    Most networks have the same variables for both sizes, so they need no other initialisation.
    """
    others = inputs.arrays()

    def run(variables, image):
        rngs = {"mask": jax.random.key(0)}
        output, features = model.apply(variables, image, *others, train=False, rngs=rngs)
        return OrderedDict(features, output=output)

    image = jax.ShapeDtypeStruct((1, *image_size, inputs.channels), inputs.dtype)
    try:
        return trace(run, (_variables(model, inputs, like), image))
    except FlaxError:  # such as position embeddings for more patches
        return trace(run, (_variables(model, inputs, image_size), image))


def _trace(model, inputs, image_size, axis, like=None) -> OrderedDict[str, Field]:
    return _traced(model, _Inputs.of(inputs), image_size, axis, like or image_size)


@functools.lru_cache(maxsize=16)
def _traced(model, inputs: _Inputs, image_size, axis, like) -> OrderedDict[str, Field]:
    return dependence(_program(model, inputs, image_size, like), image=1, axis=1 + axis)


def _ends(field: Field) -> np.ndarray:
    first, last = field.planes[0, 0], -field.planes[1, 0]
    return np.stack([np.where(first == NOTHING, -1, x) for x in (first, last)], axis=-1)


def _lengths(ends: np.ndarray) -> np.ndarray:
    return np.where(ends[..., 0] < 0, 0, ends[..., 1] - ends[..., 0] + 1)
