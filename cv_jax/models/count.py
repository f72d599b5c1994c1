"""Multiply-adds of a traced program."""

import math
from collections.abc import Callable
from typing import Any

import jax


def count_multiply_adds(function: Callable, *args) -> tuple[int, Any]:
    """Count the multiply-adds of the matrix products and convolutions in `function(*args)`.

    The count is from the jaxpr. It includes filter taps on padding, which the hardware multiplies
    too, and every iteration of a loop. It excludes element-wise operations, normalisation and
    pooling, as published tables do.

    Args:
      function: a function that JAX can trace.
      *args: its arguments, or their `jax.ShapeDtypeStruct`s.

    Returns:
      `(multiply-adds, shapes and dtypes of the result)`.
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
            # An output value needs one window over the input channels of its group: the kernel's
            # size divided by its output channels.
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
