"""Multiply-adds of a traced program."""

import math
from collections.abc import Callable
from typing import Any

import jax


def count_multiply_adds(function: Callable, *args) -> tuple[int, Any]:
    """Multiply-adds of the matrix products and convolutions that `function(*args)` makes.

    Counted from the jaxpr, so that it holds for whatever the program really does: taps that fall on
    padding count (the hardware multiplies them too), loops count as often as they run. Element-wise
    work, normalisation and pooling count as nothing, as in the published tables.

    Args:
      function: anything that jax can trace.
      *args: its arguments; `jax.ShapeDtypeStruct`s will do.

    Returns:
      `(multiply-adds, the shapes and dtypes of what the function returns)`.
    """
    program, shapes = jax.make_jaxpr(function, return_shape=True)(*args)
    return _count(program.jaxpr), shapes


def _count(jaxpr) -> int:
    total = 0
    for equation in jaxpr.eqns:
        primitive, params = equation.primitive.name, equation.params
        if primitive == "dot_general":
            (contracted, _), _ = params["dimension_numbers"]
            shape = equation.invars[0].aval.shape
            depth = math.prod(shape[axis] for axis in contracted)
            total += equation.outvars[0].aval.size * depth
        elif primitive == "conv_general_dilated":
            # Each output value reads one kernel window over the input channels of its own group:
            # the kernel's size divided by its output channels.
            kernel = equation.invars[1].aval
            out_axis = params["dimension_numbers"].rhs_spec[0]
            total += equation.outvars[0].aval.size * kernel.size // kernel.shape[out_axis]
        elif primitive == "cond":
            total += max(_count(branch.jaxpr) for branch in params["branches"])
        else:
            repeats = params.get("length", 1) if primitive == "scan" else 1
            total += repeats * sum(_count(inner) for inner in _inner_jaxprs(params))
    return total


def _inner_jaxprs(params):
    for value in params.values():
        for candidate in value if isinstance(value, (tuple, list)) else (value,):
            inner = getattr(candidate, "jaxpr", candidate)
            if hasattr(inner, "eqns"):
                yield inner
