"""Which rows, or columns, of pixels each value of a traced program can depend on.

The program is run on intervals in place of numbers. Every value that depends on the image carries
the smallest interval of rows (or, in another run, of columns) that holds all it can depend on; a
sum, a product or a convolution takes the union of what it reads, and what only moves values moves
their intervals. Parameters have unknown values and no interval; constants are computed, for two of
their values matter:

- a product with zero depends on nothing, and padding with zeros adds nothing;
- a score lowered by 100 or more, as masks do, has a softmax weight below 1e-43: it counts as zero.

An axis along which all is equal is stored with length 1, so that neither channels nor parameters
cost memory. A primitive that is not known here raises an error: a result never rests on a guess.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

NOTHING = 2**30  # both ends of the interval of what depends on no pixel
_BLOCKED = -100.0
_ENDS, _ZERO, _LOW, _PLANES = slice(2), 2, 3, 4
_EMPTY = np.array([NOTHING, NOTHING, 0, 0], np.int32)


class Field(NamedTuple):
    """An array of the program, as what is known of each of its elements.

    Attributes:
      shape: of the array.
      planes: int32 [4, …], the other axes those of `shape`, or of length 1 where all is equal: the
        first row (or column), the last one negated, so that a union is a minimum (`NOTHING` twice
        where there is no pixel); whether the element is surely zero; whether it is a score that a
        mask has lowered.
    """

    shape: tuple[int, ...]
    planes: np.ndarray


def dependence(function: Callable, arguments: Sequence[Any], image: int, axis: int) -> Any:
    """The rows, or columns, behind every element that a function returns.

    Args:
      function: anything that jax can trace.
      arguments: its arguments. `jax.ShapeDtypeStruct`s (and trees of them) stand for values that
        may be anything; arrays are constants.
      image: which argument is the image, [1, H, W, C].
      axis: 1 for rows, 2 for columns.

    Returns:
      What the function returns, each array as a `Field`.

    Raises:
      NotImplementedError: the program holds a primitive whose dependence is not known here.
    """
    program, shapes = jax.make_jaxpr(function, return_shape=True)(*arguments)
    values = []
    for i, argument in enumerate(arguments):
        for leaf in jax.tree.leaves(argument):
            unknown = isinstance(leaf, jax.ShapeDtypeStruct)
            values.append(_any(leaf) if unknown else leaf)
        if i == image:
            values[-1] = _pixels(argument.shape, axis)
    results = _run(program.jaxpr, program.consts, values)
    return jax.tree.unflatten(jax.tree.structure(shapes), map(_lift, results))


def _pixels(shape: tuple[int, ...], axis: int) -> Field:
    index = np.arange(shape[axis], dtype=np.int32)
    planes = np.stack([index, -index, 0 * index, 0 * index])
    return Field(shape, planes.reshape(_PLANES, *(-1 if i == axis else 1 for i in range(4))))


def _any(leaf: Any) -> Field:
    """An array that no pixel reaches and whose values are not known."""
    return Field(leaf.shape, _EMPTY.reshape(_PLANES, *[1] * len(leaf.shape)))


def _lift(value: Any) -> Field:
    """A constant as a `Field`."""
    if isinstance(value, Field):
        return value
    field = _any(value)
    if not jax.numpy.issubdtype(value.dtype, jax.numpy.number):
        return field
    value = np.asarray(value)
    planes = np.broadcast_to(field.planes, (_PLANES, *value.shape)).copy()
    planes[_ZERO], planes[_LOW] = value == 0, value <= _BLOCKED
    return _compact(value.shape, planes)


def _compact(shape: tuple[int, ...], planes: np.ndarray) -> Field:
    """Axes along which all is equal become 1 long; what is zero depends on nothing."""
    if planes[_ZERO].any():
        planes = planes.copy()
        planes[_ENDS] = np.where(planes[_ZERO], NOTHING, planes[_ENDS])
    for axis in range(1, planes.ndim):
        first = planes.take([0], axis) if planes.shape[axis] else planes
        if planes.shape[axis] > 1 and (planes == first).all():
            planes = first
    return Field(shape, planes)


def _run(jaxpr, consts, arguments) -> list:
    """Runs a program on constants and `Field`s."""
    known: dict = dict(zip(jaxpr.constvars, consts, strict=True))
    known.update(zip(jaxpr.invars, arguments, strict=True))

    def read(atom):
        return np.asarray(atom.val, atom.aval.dtype) if hasattr(atom, "val") else known[atom]

    for equation in jaxpr.eqns:
        values = [read(atom) for atom in equation.invars]
        known.update(zip(equation.outvars, _equation(equation, values), strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _equation(equation, values: list) -> Sequence:
    primitive, params = equation.primitive, equation.params
    name, outputs = primitive.name, [out.aval for out in equation.outvars]
    if name == "scan":
        return _scan(params, values)
    inner = params.get("jaxpr", params.get("call_jaxpr"))
    if inner is not None:
        return _run(getattr(inner, "jaxpr", inner), getattr(inner, "consts", ()), values)
    if not any(isinstance(value, Field) for value in values):
        results = primitive.bind(*values, **params)
        return results if primitive.multiple_results else [results]
    if name == "select_n" and not isinstance(values[0], Field):
        return [_select(np.asarray(values[0]), [_lift(value) for value in values[1:]])]
    fields = [_lift(value) for value in values]
    if name in RULES:
        results = RULES[name](fields, params, outputs)
        results = results if isinstance(results, list) else [results]
        return [_compact(out.shape, planes) for out, planes in zip(outputs, results, strict=True)]
    if all((field.planes[_ENDS] == NOTHING).all() for field in fields):
        return [_any(out) for out in outputs]  # no pixel goes in, none comes out
    if name == "gather" and not isinstance(values[1], Field):
        full = np.broadcast_to(fields[0].planes, (_PLANES, *fields[0].shape))
        planes = [
            primitive.bind(jax.numpy.asarray(plane), values[1], **{**params, "fill_value": fill})
            for plane, fill in zip(full, _EMPTY.tolist(), strict=True)
        ]
        return [_compact(outputs[0].shape, np.stack(planes))]
    raise NotImplementedError(f"what depends on what in the primitive {name!r} is not known")


def _scan(params, values) -> list:
    """A loop, unrolled."""
    consts, carried = params["num_consts"], params["num_carry"]
    body, length = params["jaxpr"], params["length"]
    fixed, carry = values[:consts], values[consts : consts + carried]
    stacked = values[consts + carried :]
    order = range(length)[:: -1 if params["reverse"] else 1]
    rows = {}
    for i in order:
        results = _run(body.jaxpr, body.consts, [*fixed, *carry, *(_row(x, i) for x in stacked)])
        carry, rows[i] = results[:carried], [_lift(x) for x in results[carried:]]
    outputs = []
    for fields in zip(*(rows[i] for i in range(length)), strict=True):
        shape = (length, *fields[0].shape)
        parts = [Field((1, *x.shape), x.planes[:, None]) for x in fields]
        outputs.append(_compact(shape, _concatenate(parts, {"dimension": 0}, None)))
    return [*carry, *outputs]


def _row(value, i):
    if not isinstance(value, Field):
        return value[i]
    planes = value.planes
    return Field(value.shape[1:], planes[:, i if planes.shape[1] > 1 else 0])


def _select(which: np.ndarray, cases: list[Field]) -> Field:
    """`select_n` where it is known what is selected."""
    shape = cases[0].shape
    planes = [np.broadcast_to(case.planes, (_PLANES, *shape)) for case in cases]
    return _compact(shape, np.choose(np.broadcast_to(which, (_PLANES, *shape)).astype(int), planes))


# Each rule: (fields, params, output shapes) → planes, or a list of them.


def _elementwise(zero=None, low=None):
    """A union; `zero` and `low` say from the operands' flags what is known of the result."""

    def rule(fields, params, outputs):
        rank = len(outputs[0].shape)
        operands = [f.planes.reshape(_PLANES, *f.planes.shape[1:] or [1] * rank) for f in fields]
        result = np.minimum.reduce(np.broadcast_arrays(*operands)).copy()
        zeros, lows = [x[_ZERO] for x in operands], [x[_LOW] for x in operands]
        result[_ZERO] = 0 if zero is None else zero(zeros, lows)
        result[_LOW] = 0 if low is None else low(lows)
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
        zero, low = planes[[_ZERO]].all(axes), planes[[_LOW]].all(axes)
        if name == "max":  # what is lowered is not the largest, unless all is
            planes[_ENDS] = np.where(planes[_LOW], NOTHING, planes[_ENDS])
            everything = fields[0].planes[_ENDS].min(axes)
            box = np.where(low, everything, planes[_ENDS].min(axes))
        else:
            box = planes[_ENDS].min(axes)
        zero = zero & (name == "sum")
        low = low & (name == "max")
        return np.concatenate([box, zero, low]).astype(np.int32)

    return rule


def _reshape(fields, params, outputs):
    """Runs of axes with one product on both sides go each for itself."""
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
    return np.broadcast_to(field.planes, (_PLANES, *compact)).reshape(_PLANES, *target)


def _broadcast(fields, params, outputs):
    (field, *_), shape = fields, [1] * len(outputs[0].shape)
    for axis, side in zip(params["broadcast_dimensions"], field.planes.shape[1:], strict=True):
        shape[axis] = side
    return field.planes.reshape(_PLANES, *shape)


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
    """The planes with that axis at its full length."""
    shape = list(field.planes.shape)
    shape[axis + 1] = field.shape[axis]
    return np.broadcast_to(field.planes, shape)


def _concatenate(fields, params, outputs):
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
    return _concatenate(parts, {"dimension": axis}, outputs)


def _pad(fields, params, outputs):
    field, value = fields
    planes, fill = field.planes, value.planes.reshape(_PLANES)
    for axis, (low, high, between) in enumerate(params["padding_config"]):
        if (low, high, between) != (0, 0, 0):
            planes = _stretch(Field(field.shape, planes), axis)
            planes = _pad_axis(planes, axis + 1, low, high, between, fill)
    return planes


def _pad_axis(planes, axis, low, high, between, fill):
    """Fills up before, after and between the elements of one axis; negative widths cut."""
    planes = np.moveaxis(planes, axis, 1)
    length = (planes.shape[1] - 1) * (between + 1) + 1
    before, after = max(low, 0), max(high, 0)
    shape = (_PLANES, before + length + after, *planes.shape[2:])
    wide = np.broadcast_to(fill.reshape(_PLANES, *[1] * (len(shape) - 1)), shape).copy()
    wide[:, before : before + length : between + 1] = planes
    wide = wide[:, max(-low, 0) : wide.shape[1] - max(-high, 0)]
    return np.moveaxis(wide, 1, axis)


def _windows(field, axis, size, stride, padding, dilation=1, base_dilation=1):
    """The union over a window that slides along one axis."""
    if (size, stride, tuple(padding), base_dilation) == (1, 1, (0, 0), 1):
        return field
    planes = _pad_axis(_stretch(field, axis), axis + 1, *padding, base_dilation - 1, _EMPTY)
    planes = np.moveaxis(planes, axis + 1, 1)
    count = (planes.shape[1] - (size - 1) * dilation - 1) // stride + 1
    taps = (planes[:, t * dilation :][:, : (count - 1) * stride + 1 : stride] for t in range(size))
    result = np.zeros((_PLANES, count, *planes.shape[2:]), np.int32)
    result[_ENDS] = NOTHING
    for tap in taps:
        np.minimum(result[_ENDS], tap[_ENDS], out=result[_ENDS])
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
    if (kernel.planes[_ENDS] != NOTHING).any() or params["batch_group_count"] != 1:
        raise NotImplementedError("a convolution by a kernel that depends on the image")
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
    planes[_ZERO:] = 0
    return planes


def _dot(fields, params, outputs):
    (contracted, batched), operands = params["dimension_numbers"], []
    free = [
        [i for i in range(len(f.shape)) if i not in c and i not in b]
        for f, c, b in zip(fields, contracted, batched, strict=True)
    ]
    for side, field in enumerate(fields):  # → [6, batch…, left…, right…, contracted…]
        order = [*batched[side], *free[side], *contracted[side]]
        planes = field.planes.transpose(0, *(axis + 1 for axis in order))
        split = 1 + len(batched[side])
        absent = [1] * len(free[1 - side])
        at = split + (len(free[0]) if side == 0 else 0)
        operands.append(planes.reshape(*planes.shape[:at], *absent, *planes.shape[at:]))
    depth = len(contracted[0])
    rank = operands[0].ndim - depth
    if not any(x[_ZERO].any() for x in operands):
        axes = tuple(range(rank, rank + depth))
        left, right = (x.min(axes) for x in operands)
        result = np.minimum(left, right)
        result[_ZERO:] = 0
        return result
    sizes = [max(x.shape[rank + i] for x in operands) for i in range(depth)]
    result = None
    for place in itertools.product(*map(range, sizes)):
        left, right = (
            x[(..., *(p if side > 1 else 0 for p, side in zip(place, x.shape[rank:], strict=True)))]
            for x in operands
        )
        zero = (left[_ZERO] | right[_ZERO]).astype(bool)
        term = np.minimum(left, right)
        term[_ENDS] = np.where(zero, NOTHING, term[_ENDS])
        term[_ZERO] = zero
        result = term if result is None else np.minimum(result, term)
    result[_LOW] = 0
    return result


_FUNCTIONS = "log log1p exp2 expm1 rsqrt logistic erfc cos pow rem nextafter clamp min select_n"
_LOGICAL = "and or xor not eq ne lt le gt ge is_finite"
_ODD = "neg sign abs square sqrt integer_pow tanh erf sin floor ceil round"
_COPIES = "convert_element_type copy stop_gradient reduce_precision"
_REDUCTIONS = "sum max min prod and or"

RULES: dict[str, Callable] = {
    **dict.fromkeys(f"{_FUNCTIONS} {_LOGICAL}".split(), _elementwise()),
    **dict.fromkeys(_ODD.split(), _elementwise(zero=_first)),
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
    "concatenate": _concatenate,
    "stack": _stack,
    "pad": _pad,
    "conv_general_dilated": _convolve,
    "dot_general": _dot,
}
