"""Dependence of each value of a traced program on rows or columns of an image.

The program runs on intervals instead of numbers. Each value that depends on the image has the
smallest interval of rows (or, in another run, of columns) that contains its dependence. Sums,
products and convolutions take the union of their operands' intervals; data movement moves the
intervals. Parameters have unknown values and an empty interval. Constants are computed, because
their values change the dependence in two cases:

- a product with zero depends on no pixel, and padding with zeros adds no pixel;
- a score lowered by 100 or more, as by masks, has a softmax weight below 1e-43; it counts as zero.

An axis with equal values is stored with length 1, so channels and parameters need no memory. A
primitive without a rule raises an error, never an approximation. `primitives.py` has the rules.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from cv_jax.inspect.primitives import (
    BLOCKED,
    EMPTY,
    ENDS,
    LOW,
    NOTHING,
    PLANES,
    RULES,
    ZERO,
    Field,
    concatenate,
)


class Program(NamedTuple):
    """A traced function.

    Attributes:
      closed: the program.
      shapes: its result, with a `jax.ShapeDtypeStruct` for each array.
      arguments: its arguments; see `trace`.
    """

    closed: Any
    shapes: Any
    arguments: Sequence[Any]


def trace(function: Callable, arguments: Sequence[Any]) -> Program:
    """Return the program of a function.

    Args:
      function: any function that JAX can trace.
      arguments: its arguments. `jax.ShapeDtypeStruct`s (and trees of them) have unknown values;
        arrays are constants.
    """
    return Program(*jax.make_jaxpr(function, return_shape=True)(*arguments), arguments)


def dependence(program: Program, image: int, axis: int) -> Any:
    """Return the rows, or columns, that each element of a program's result depends on.

    Args:
      program: the program.
      image: index of the image, [1, H, W, C], in its arguments.
      axis: 1 for rows, 2 for columns.

    Returns:
      The function's result, with a `Field` for each array.

    Raises:
      NotImplementedError: a primitive of the program has no dependence rule.
    """
    values = []
    for i, argument in enumerate(program.arguments):
        for leaf in jax.tree.leaves(argument):
            unknown = isinstance(leaf, jax.ShapeDtypeStruct)
            values.append(_any(leaf) if unknown else leaf)
        if i == image:
            values[-1] = _pixels(argument.shape, axis)
    results = _run(program.closed.jaxpr, program.closed.consts, values)
    return jax.tree.unflatten(jax.tree.structure(program.shapes), map(_lift, results))


def _pixels(shape: tuple[int, ...], axis: int) -> Field:
    index = np.arange(shape[axis], dtype=np.int32)
    planes = np.stack([index, -index, 0 * index, 0 * index])
    return Field(shape, planes.reshape(PLANES, *(-1 if i == axis else 1 for i in range(4))))


def _any(leaf: Any) -> Field:
    """An array of unknown values that depends on no pixel."""
    return Field(leaf.shape, EMPTY.reshape(PLANES, *[1] * len(leaf.shape)))


def _lift(value: Any) -> Field:
    """Convert a constant to a `Field`."""
    if isinstance(value, Field):
        return value
    field = _any(value)
    if not jax.numpy.issubdtype(value.dtype, jax.numpy.number):
        return field
    value = np.asarray(value)
    planes = np.broadcast_to(field.planes, (PLANES, *value.shape)).copy()
    planes[ZERO], planes[LOW] = value == 0, value <= BLOCKED
    return _compact(value.shape, planes)


def _compact(shape: tuple[int, ...], planes: np.ndarray) -> Field:
    """Store axes with equal values with length 1; zeros depend on no pixel."""
    if planes[ZERO].any():
        planes = planes.copy()
        planes[ENDS] = np.where(planes[ZERO], NOTHING, planes[ENDS])
    for axis in range(1, planes.ndim):
        first = planes.take([0], axis) if planes.shape[axis] else planes
        if planes.shape[axis] > 1 and (planes == first).all():
            planes = first
    return Field(shape, planes)


def _run(jaxpr, consts, arguments) -> list:
    """Run a program on constants and `Field`s."""
    known: dict = dict(zip(jaxpr.constvars, consts, strict=True))
    known.update(zip(jaxpr.invars, arguments, strict=True))

    def read(atom):
        return np.asarray(atom.val, atom.aval.dtype) if hasattr(atom, "val") else known[atom]

    for equation in jaxpr.eqns:
        values = [read(atom) for atom in equation.invars]
        form = f"the primitive {equation.primitive.name!r} of jax {jax.__version__}"
        try:
            results = _equation(equation, values)
        except KeyError as error:  # other versions of JAX have other parameters
            raise NotImplementedError(
                f"the dependence rule of {form} expects the parameter {error}"
            ) from error
        if not _fit(results, equation.outvars):
            raise NotImplementedError(f"the dependence rule of {form} gives other shapes")
        known.update(zip(equation.outvars, results, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _equation(equation, values: list) -> Sequence:
    """Return a constant or a `Field` for each result of one primitive."""
    primitive, params = equation.primitive, equation.params
    name, outputs = primitive.name, [out.aval for out in equation.outvars]
    constant = not any(isinstance(value, Field) for value in values)
    if name == "scan" and not constant:
        return _scan(equation, values)
    inner = params.get("jaxpr", params.get("call_jaxpr"))
    if inner is not None and name != "scan" and _is_call(equation, inner):
        return _run(*_parts(inner), values)
    if constant:
        results = primitive.bind(*values, **params)
        return results if primitive.multiple_results else [results]
    if name == "select_n" and not isinstance(values[0], Field):
        return [_select(np.asarray(values[0]), [_lift(value) for value in values[1:]])]
    fields = [_lift(value) for value in values]
    if name in RULES:
        results = RULES[name](fields, params, outputs)
        results = results if isinstance(results, list) else [results]
        return [_compact(out.shape, planes) for out, planes in zip(outputs, results, strict=True)]
    if all((field.planes[ENDS] == NOTHING).all() for field in fields):
        return [_any(out) for out in outputs]  # without pixels in the operands, the result has none
    if name == "gather" and not isinstance(values[1], Field):
        full = np.broadcast_to(fields[0].planes, (PLANES, *fields[0].shape))
        planes = [
            primitive.bind(jax.numpy.asarray(plane), values[1], **{**params, "fill_value": fill})
            for plane, fill in zip(full, EMPTY.tolist(), strict=True)
        ]
        return [_compact(outputs[0].shape, np.stack(planes))]
    raise NotImplementedError(
        f"no dependence rule for the primitive {name!r} of jax {jax.__version__}"
    )


def _fit(results: Sequence, variables: Sequence) -> bool:
    """Whether results have the shapes of the variables; a `Field` stores equal values once."""
    shapes = [x.planes.shape[1:] if isinstance(x, Field) else np.shape(x) for x in results]
    return len(shapes) == len(variables) and all(
        len(shape) == len(variable.aval.shape)
        and all(side in (1, full) for side, full in zip(shape, variable.aval.shape, strict=True))
        for shape, variable in zip(shapes, variables, strict=True)
    )


def _parts(program: Any) -> tuple[Any, Sequence]:
    """Return the program inside a primitive without constants, and the constants."""
    return getattr(program, "jaxpr", program), getattr(program, "consts", ())


def _shapes(atoms: Sequence) -> list[tuple[int, ...]]:
    return [atom.aval.shape for atom in atoms]


def _is_call(equation, inner: Any) -> bool:
    """Whether a primitive may run its inner program once on its operands; `reduce` may not."""
    body, _ = _parts(inner)
    return (_shapes(body.invars), _shapes(body.outvars)) == (
        _shapes(equation.invars),
        _shapes(equation.outvars),
    )


def _scan(equation, values: list) -> list:
    """Run a loop, unrolled.

    Operands are constants, carried values and arrays of one value per iteration; results are
    carried values and such arrays. The arrays have one axis more than the values in the loop. JAX
    has no stable parameter for the numbers of each kind.
    """
    params = equation.params
    length, (body, consts) = params["length"], _parts(params["jaxpr"])
    kept = _unstacked(equation.invars, body.invars)
    carried = _unstacked(equation.outvars, body.outvars)
    fixed, carry, stacked = values[: kept - carried], values[kept - carried : kept], values[kept:]
    order = range(length)[:: -1 if params["reverse"] else 1]
    rows = {}
    for i in order:
        results = _run(body, consts, [*fixed, *carry, *(_row(x, i) for x in stacked)])
        carry, rows[i] = results[:carried], [_lift(x) for x in results[carried:]]
    outputs = []
    for fields in zip(*(rows[i] for i in range(length)), strict=True):
        shape = (length, *fields[0].shape)
        parts = [Field((1, *x.shape), x.planes[:, None]) for x in fields]
        outputs.append(_compact(shape, concatenate(parts, {"dimension": 0}, None)))
    return [*carry, *outputs]


def _unstacked(outer: Sequence, inner: Sequence) -> int:
    return sum(a == b for a, b in zip(_shapes(outer), _shapes(inner), strict=True))


def _row(value, i):
    if not isinstance(value, Field):
        return value[i]
    planes = value.planes
    return Field(value.shape[1:], planes[:, i if planes.shape[1] > 1 else 0])


def _select(predicate: np.ndarray, cases: list[Field]) -> Field:
    """Apply `select_n` with a known predicate."""
    shape = cases[0].shape
    planes = [np.broadcast_to(case.planes, (PLANES, *shape)) for case in cases]
    return _compact(
        shape, np.choose(np.broadcast_to(predicate, (PLANES, *shape)).astype(int), planes)
    )
