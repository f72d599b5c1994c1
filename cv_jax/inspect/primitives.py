"""Intervals of rows or columns of pixels, and the rule of each JAX primitive for them.

A rule takes `(fields, params, outputs)`: the operands as `Field`s, the primitive's parameters and
the output shapes. It returns the planes of the result, or a list of planes.
"""

import itertools
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

NOTHING = 2**30  # both ends of an empty interval
BLOCKED = -100.0  # a score up to this value has softmax weight 0
ENDS, ZERO, LOW, PLANES = slice(2), 2, 3, 4  # indices of the planes, and their number
EMPTY = np.array([NOTHING, NOTHING, 0, 0], np.int32)


class Field(NamedTuple):
    """Properties of each element of an array of the program.

    Attributes:
      shape: of the array.
      planes: int32 [4, …]. The other axes are the axes of `shape`; an axis with equal values has
        length 1. The planes are: the first row (or column); the last row, negated, so that a union
        is a minimum (both `NOTHING` without a pixel); whether the element is certainly zero;
        whether the element is a score lowered by a mask.
    """

    shape: tuple[int, ...]
    planes: np.ndarray


def _elementwise(zero=None, low=None):
    """A union of the operands; `zero` and `low` compute the flags of the result.

    `zero` takes the operands' flags for zero and for low scores, `low` the flags for low scores.
    """

    def rule(fields, params, outputs):
        rank = len(outputs[0].shape)
        operands = [f.planes.reshape(PLANES, *f.planes.shape[1:] or [1] * rank) for f in fields]
        result = np.minimum.reduce(np.broadcast_arrays(*operands)).copy()
        zeros, lows = [x[ZERO] for x in operands], [x[LOW] for x in operands]
        result[ZERO] = 0 if zero is None else zero(zeros, lows)
        result[LOW] = 0 if low is None else low(lows)
        return result

    return rule


def _either(flags, *_):
    return np.logical_or.reduce(np.broadcast_arrays(*flags))


def _every(flags, *_):
    return np.logical_and.reduce(np.broadcast_arrays(*flags))


def _first(flags, *_):
    return flags[0]


def _reduce(name):
    def rule(fields, params, outputs):
        planes, axes = fields[0].planes.copy(), tuple(axis + 1 for axis in params["axes"])
        zero, low = planes[[ZERO]].all(axes), planes[[LOW]].all(axes)
        if name == "max":  # a lowered score is not the maximum, unless all scores are lowered
            planes[ENDS] = np.where(planes[LOW], NOTHING, planes[ENDS])
            everything = fields[0].planes[ENDS].min(axes)
            box = np.where(low, everything, planes[ENDS].min(axes))
        else:
            box = planes[ENDS].min(axes)
        zero = zero & (name == "sum")
        low = low & (name == "max")
        return np.concatenate([box, zero, low]).astype(np.int32)

    return rule


def _reshape(fields, params, outputs):
    """Handle runs of axes with the same product on both sides independently."""
    (field,), (old, new) = fields, (fields[0].shape, outputs[0].shape)
    compact, target, i, j = [], [], 0, 0
    while i < len(old) or j < len(new):
        a, b = i + 1, j + 1
        while math.prod(old[i:a]) != math.prod(new[j:b]):
            if math.prod(old[i:a]) < math.prod(new[j:b]):
                a += 1
            else:
                b += 1
        uniform = all(side == 1 for side in field.planes.shape[1 + i : 1 + a])
        compact += [1] * len(old[i:a]) if uniform else old[i:a]
        target += [1] * len(new[j:b]) if uniform else new[j:b]
        i, j = a, b
    return np.broadcast_to(field.planes, (PLANES, *compact)).reshape(PLANES, *target)


def _broadcast(fields, params, outputs):
    (field, *_), shape = fields, [1] * len(outputs[0].shape)
    for axis, side in zip(params["broadcast_dimensions"], field.planes.shape[1:], strict=True):
        shape[axis] = side
    return field.planes.reshape(PLANES, *shape)


def _transpose(fields, params, outputs):
    return fields[0].planes.transpose(0, *(axis + 1 for axis in params["permutation"]))


def _squeeze(fields, params, outputs):
    return fields[0].planes.squeeze(tuple(axis + 1 for axis in params["dimensions"]))


def _slice(fields, params, outputs):
    return _cut(fields[0], params["start_indices"], params["limit_indices"], params["strides"])


def _cut(field, starts, limits, strides=None):
    strides = strides or [1] * len(field.shape)
    cuts = [
        slice(*cut) if side > 1 else slice(None)
        for side, *cut in zip(field.planes.shape[1:], starts, limits, strides, strict=True)
    ]
    return field.planes[(slice(None), *cuts)]


def _split(fields, params, outputs):
    (field,), axis, parts, start = fields, params["axis"], [], 0
    for size in params["sizes"]:
        starts, limits = [0] * len(field.shape), list(field.shape)
        starts[axis], limits[axis] = start, start + size
        parts.append(_cut(field, starts, limits))
        start += size
    return parts


def _reverse(fields, params, outputs):
    return np.flip(fields[0].planes, [axis + 1 for axis in params["dimensions"]])


def _stretch(field: Field, axis: int) -> np.ndarray:
    """Return the planes with this axis at its full length."""
    shape = list(field.planes.shape)
    shape[axis + 1] = field.shape[axis]
    return np.broadcast_to(field.planes, shape)


def concatenate(fields, params, outputs):
    """Rule of `concatenate`: join the fields of the operands along the dimension."""
    axis = params["dimension"]
    parts = [_stretch(field, axis) for field in fields if field.shape[axis]]
    common = np.broadcast_shapes(*(part.take([0], axis + 1).shape for part in parts))
    parts = [
        np.broadcast_to(x, (*common[: axis + 1], x.shape[axis + 1], *common[axis + 2 :]))
        for x in parts
    ]
    return np.concatenate(parts, axis + 1)


def _stack(fields, params, outputs):
    axis = params["axis"]
    parts = [
        Field((*f.shape[:axis], 1, *f.shape[axis:]), np.expand_dims(f.planes, axis + 1))
        for f in fields
    ]
    return concatenate(parts, {"dimension": axis}, outputs)


def _pad(fields, params, outputs):
    field, value = fields
    planes, fill = field.planes, value.planes.reshape(PLANES)
    for axis, (low, high, between) in enumerate(params["padding_config"]):
        if (low, high, between) != (0, 0, 0):
            planes = _stretch(Field(field.shape, planes), axis)
            planes = _pad_axis(planes, axis + 1, low, high, between, fill)
    return planes


def _pad_axis(planes, axis, low, high, between, fill):
    """Pad before, after and between the elements of one axis; negative widths cut."""
    planes = np.moveaxis(planes, axis, 1)
    length = (planes.shape[1] - 1) * (between + 1) + 1
    before, after = max(low, 0), max(high, 0)
    shape = (PLANES, before + length + after, *planes.shape[2:])
    wide = np.broadcast_to(fill.reshape(PLANES, *[1] * (len(shape) - 1)), shape).copy()
    wide[:, before : before + length : between + 1] = planes
    wide = wide[:, max(-low, 0) : wide.shape[1] - max(-high, 0)]
    return np.moveaxis(wide, 1, axis)


def _windows(field, axis, size, stride, padding, dilation=1, base_dilation=1):
    """Take the union over a window that slides along one axis."""
    if (size, stride, tuple(padding), base_dilation) == (1, 1, (0, 0), 1):
        return field
    planes = _pad_axis(_stretch(field, axis), axis + 1, *padding, base_dilation - 1, EMPTY)
    planes = np.moveaxis(planes, axis + 1, 1)
    count = (planes.shape[1] - (size - 1) * dilation - 1) // stride + 1
    taps = (planes[:, t * dilation :][:, : (count - 1) * stride + 1 : stride] for t in range(size))
    result = np.zeros((PLANES, count, *planes.shape[2:]), np.int32)
    result[ENDS] = NOTHING
    for tap in taps:
        np.minimum(result[ENDS], tap[ENDS], out=result[ENDS])
    shape = (*field.shape[:axis], count, *field.shape[axis + 1 :])
    return Field(shape, np.moveaxis(result, 1, axis + 1))


def _reduce_window(fields, params, outputs):
    field = fields[0]
    rank = len(field.shape)
    for axis in range(rank):
        field = _windows(
            field,
            axis,
            params["window_dimensions"][axis],
            params["window_strides"][axis],
            params["padding"][axis],
            params["window_dilation"][axis],
            params["base_dilation"][axis],
        )
    return field.planes


def _convolve(fields, params, outputs):
    image, kernel = fields
    numbers, groups = params["dimension_numbers"], params["feature_group_count"]
    if (kernel.planes[ENDS] != NOTHING).any() or params["batch_group_count"] != 1:
        raise NotImplementedError(
            "no dependence rule for batch groups or for kernels that depend on the image"
        )
    (batch, channel, *axes), kernel_axes = numbers.lhs_spec, numbers.rhs_spec[2:]
    planes, inputs = image.planes, image.shape[channel]
    if planes.shape[channel + 1] > 1:
        planes = np.moveaxis(planes, channel + 1, -1)
        planes = planes.reshape(*planes.shape[:-1], groups, inputs // groups).min(-1)
        planes = np.moveaxis(planes, -1, channel + 1)
    field = Field((*image.shape[:channel], groups, *image.shape[channel + 1 :]), planes)
    for i, (axis, kernel_axis) in enumerate(zip(axes, kernel_axes, strict=True)):
        field = _windows(
            field,
            axis,
            kernel.shape[kernel_axis],
            params["window_strides"][i],
            params["padding"][i],
            params["rhs_dilation"][i],
            params["lhs_dilation"][i],
        )
    planes = field.planes.transpose(0, batch + 1, channel + 1, *(axis + 1 for axis in axes))
    if planes.shape[2] > 1:
        planes = np.repeat(planes, kernel.shape[numbers.rhs_spec[0]] // groups, axis=2)
    order = np.argsort(numbers.out_spec)
    planes = planes.transpose(0, *(axis + 1 for axis in order)).copy()
    planes[ZERO:] = 0
    return planes


def _dot(fields, params, outputs):
    (contracted, batched), operands = params["dimension_numbers"], []
    free = [
        [i for i in range(len(f.shape)) if i not in c and i not in b]
        for f, c, b in zip(fields, contracted, batched, strict=True)
    ]
    for side, field in enumerate(fields):  # → [4, batch…, left…, right…, contracted…]
        order = [*batched[side], *free[side], *contracted[side]]
        planes = field.planes.transpose(0, *(axis + 1 for axis in order))
        split = 1 + len(batched[side])
        absent = [1] * len(free[1 - side])
        at = split + (len(free[0]) if side == 0 else 0)
        operands.append(planes.reshape(*planes.shape[:at], *absent, *planes.shape[at:]))
    depth = len(contracted[0])
    rank = operands[0].ndim - depth
    if not any(x[ZERO].any() for x in operands):
        axes = tuple(range(rank, rank + depth))
        left, right = (x.min(axes) for x in operands)
        result = np.minimum(left, right)
        result[ZERO:] = 0
        return result
    sizes = [max(x.shape[rank + i] for x in operands) for i in range(depth)]
    result = None
    for index in itertools.product(*map(range, sizes)):
        left, right = (
            x[(..., *(p if side > 1 else 0 for p, side in zip(index, x.shape[rank:], strict=True)))]
            for x in operands
        )
        zero = (left[ZERO] | right[ZERO]).astype(bool)
        term = np.minimum(left, right)
        term[ENDS] = np.where(zero, NOTHING, term[ENDS])
        term[ZERO] = zero
        result = term if result is None else np.minimum(result, term)
    result[LOW] = 0
    return result


_FUNCTIONS = "log log1p exp2 expm1 rsqrt logistic erfc cos pow rem nextafter clamp min select_n"
_LOGICAL = "and or xor not eq ne lt le gt ge is_finite"
_ZERO_PRESERVING = "neg sign abs square sqrt integer_pow tanh erf sin floor ceil round"
_COPIES = "convert_element_type copy stop_gradient reduce_precision"
_REDUCTIONS = "sum max min prod and or"

RULES: dict[str, Callable] = {
    **dict.fromkeys(f"{_FUNCTIONS} {_LOGICAL}".split(), _elementwise()),
    **dict.fromkeys(_ZERO_PRESERVING.split(), _elementwise(zero=_first)),
    **dict.fromkeys(_COPIES.split(), _elementwise(zero=_first, low=_first)),
    "add": _elementwise(zero=_every, low=_either),
    "sub": _elementwise(zero=_every, low=lambda lows: lows[0] & ~lows[1].astype(bool)),
    "mul": _elementwise(zero=_either),
    "div": _elementwise(zero=_first),
    "exp": _elementwise(zero=lambda zeros, lows: lows[0]),
    "max": _elementwise(zero=_every, low=_every),
    **{f"reduce_{name}": _reduce(name) for name in _REDUCTIONS.split()},
    **dict.fromkeys(("argmax", "argmin"), _reduce("index")),
    **{f"reduce_window_{name}": _reduce_window for name in ("sum", "max", "min")},
    "reshape": _reshape,
    "broadcast_in_dim": _broadcast,
    "transpose": _transpose,
    "squeeze": _squeeze,
    "slice": _slice,
    "split": _split,
    "rev": _reverse,
    "concatenate": concatenate,
    "stack": _stack,
    "pad": _pad,
    "conv_general_dilated": _convolve,
    "dot_general": _dot,
}
