"""One program for several that differ in numbers only.

Every program is traced by itself, from a config of its own, and the traces are laid over each
other. Where they hold different numbers, be it a learning rate, a seed or the strength of an
augmentation, the common program takes an argument; all else must be the same. So each number is
the very one that its own program computes with, however it got there, and nothing that builds
programs needs to know of this.
"""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

# Calls that may be replaced by what they call: differentiation is done when a step is traced.
CALLS = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "checkpoint": "jaxpr",
    "remat2": "jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
}

Numbers = dict[str, np.ndarray]


class Different(Exception):
    """Two programs differ in more than numbers; the message says where."""


def unify(functions: list[Callable], *arguments: Any) -> tuple[Callable, Numbers]:
    """The common program of functions of the same arguments.

    Args:
      functions: that many, pure; the programs.
      *arguments: trees of arrays, or of their `jax.ShapeDtypeStruct`s.

    Returns:
      `(program, numbers)`: `program(numbers of one of them, *arguments)` is what this one computes;
      `numbers` holds those of all, each with a first axis over the functions.

    Raises:
      Different: there is no common program.
    """
    traces = [jax.make_jaxpr(f, return_shape=True)(*arguments) for f in functions]
    structures = {jax.tree.structure(shapes) for _, shapes in traces}
    if len(structures) > 1:
        raise Different("they return different things")
    programs = [program for program, _ in traces]
    numbers: Numbers = {}
    _compare("", programs, numbers)
    (structure,) = structures
    # Every place around one where numbers differ.
    places = {name[:i] for name in numbers for i, letter in enumerate(name) if letter == "/"}

    def program(own: Numbers, *arguments: Any) -> Any:
        leaves = jax.tree.leaves(arguments)
        out = _run("", programs[0].jaxpr, programs[0].consts, leaves, own, places)
        return jax.tree.unflatten(structure, out)

    jax.eval_shape(program, {name: values[0] for name, values in numbers.items()}, *arguments)
    return program, numbers


def _compare(place: str, programs: list[ClosedJaxpr], numbers: Numbers) -> None:
    """Adds the numbers in which programs differ, by place."""
    first = programs[0]
    if all(program is first for program in programs):
        return
    jaxprs = [program.jaxpr for program in programs]
    for i, values in enumerate(_aligned(place, [program.consts for program in programs])):
        _compare_values(f"{place}/const {i}", values, numbers)
    numbered = [_numbering(jaxpr) for jaxpr in jaxprs]
    for variables in ("constvars", "invars"):
        for own in _aligned(place, [getattr(jaxpr, variables) for jaxpr in jaxprs]):
            _must_equal(place, [_kind(variable) for variable in own])
    for i, equations in enumerate(_aligned(place, [jaxpr.eqns for jaxpr in jaxprs])):
        _must_equal(place, [equation.primitive.name for equation in equations])
        here = f"{place}/{i} {equations[0].primitive.name}"
        _compare_operands(here, [e.invars for e in equations], numbered, numbers)
        for own in _aligned(here, [equation.outvars for equation in equations]):
            _must_equal(here, [_kind(variable) for variable in own])
        for name in equations[0].params:
            values = [equation.params.get(name) for equation in equations]
            programs_within = [list(_programs(value)) for value in values]
            for k, own in enumerate(_aligned(here, programs_within)):
                _compare(f"{here}/{name} {k}", own, numbers)
            # Rules of differentiation are no longer used when a whole step is traced.
            if not programs_within[0] and not here.endswith(("custom_jvp_call", "custom_vjp_call")):
                _must_equal(f"{here}, {name}", values)
    _compare_operands(f"{place}/out", [jaxpr.outvars for jaxpr in jaxprs], numbered, numbers)


def _compare_operands(place, operands, numbered, numbers) -> None:
    for k, own in enumerate(_aligned(place, operands)):
        _must_equal(place, [_kind(operand) for operand in own])
        if all(isinstance(operand, Literal) for operand in own):
            _compare_values(f"{place}/operand {k}", [operand.val for operand in own], numbers)
        else:
            wires = [
                n.get(operand) for n, operand in zip(numbered, map(_hashable, own), strict=True)
            ]
            _must_equal(place, wires)


def _compare_values(place, values, numbers) -> None:
    arrays = [np.asarray(value) for value in values]
    _must_equal(place, [(array.shape, array.dtype) for array in arrays])
    if any(array.tobytes() != arrays[0].tobytes() for array in arrays):
        numbers[place] = np.stack(arrays)


def _programs(value: Any) -> Iterator[ClosedJaxpr]:
    """The programs in a parameter of an equation."""
    for item in value if isinstance(value, (tuple, list)) else (value,):
        if isinstance(item, ClosedJaxpr):
            yield item
        elif isinstance(item, Jaxpr):
            yield ClosedJaxpr(item, ())


def _numbering(jaxpr: Jaxpr) -> dict[Any, int]:
    """Variable → when it is bound."""
    bound = [*jaxpr.constvars, *jaxpr.invars]
    bound += [variable for equation in jaxpr.eqns for variable in equation.outvars]
    return {variable: i for i, variable in enumerate(bound)}


def _hashable(operand):
    return None if isinstance(operand, Literal) else operand


def _kind(operand) -> tuple:
    return isinstance(operand, Literal), operand.aval.shape, str(operand.aval.dtype)


def _aligned(place: str, lists: list) -> zip:
    _must_equal(place, [len(own) for own in lists])
    return zip(*lists, strict=True)


def _must_equal(place: str, values: list) -> None:
    for value in values[1:]:
        if value is not values[0] and not np.all(value == values[0]):
            raise Different(f"{place or 'at the start'}: {values[0]} in one, {value} in another")


def _run(place, jaxpr, consts, arguments, own, places) -> list:
    """Evaluates a program with the numbers of one."""
    values: dict[Any, Any] = {}
    for i, (variable, value) in enumerate(zip(jaxpr.constvars, consts, strict=True)):
        values[variable] = own.get(f"{place}/const {i}", value)
    values.update(zip(jaxpr.invars, arguments, strict=True))

    def read(where, operands):
        return [
            own.get(f"{where}/operand {k}", operand.val)
            if isinstance(operand, Literal)
            else values[operand]
            for k, operand in enumerate(operands)
        ]

    for i, equation in enumerate(jaxpr.eqns):
        here = f"{place}/{i} {equation.primitive.name}"
        operands = read(here, equation.invars)
        # Jitted programs are always opened: they name the devices that they were traced for.
        if equation.primitive.name in ("jit", "pjit") or any(
            f"{here}/{name} {k}" in places
            for name, value in equation.params.items()
            for k, _ in enumerate(_programs(value))
        ):
            out = _run_inner(here, equation, operands, own, places)
        else:
            with equation.ctx.manager:
                params = equation.primitive.get_bind_params(equation.params)
                out = equation.primitive.bind(*operands, **params)
            out = out if equation.primitive.multiple_results else [out]
        values.update(zip(equation.outvars, out, strict=True))
    return read(f"{place}/out", jaxpr.outvars)


def _run_inner(here, equation, operands, own, places) -> list:
    """Evaluates an equation within whose programs numbers differ.

    Raises:
      Different: it is of a kind that is not known here.
    """
    kind, params = equation.primitive.name, equation.params

    def inner(name, k=0):
        program = list(_programs(params[name]))[k]

        def run(*arguments):
            place = f"{here}/{name} {k}"
            return _run(place, program.jaxpr, program.consts, arguments, own, places)

        return run

    if kind in CALLS:
        return inner(CALLS[kind])(*operands)
    if kind == "scan":
        body, program = inner("jaxpr"), params["jaxpr"]
        # What is scanned has one axis more outside of the loop; the last operands are.
        scanned = _deeper(equation.invars, program.in_avals)
        carried = len(equation.outvars) - _deeper(equation.outvars, program.out_avals)
        consts = len(operands) - scanned - carried

        def turn(carry, xs):
            out = body(*operands[:consts], *carry, *xs)
            return out[:carried], out[carried:]

        carry, ys = jax.lax.scan(
            turn,
            operands[consts : consts + carried],
            operands[consts + carried :],
            length=params["length"],
            reverse=params["reverse"],
            unroll=params["unroll"],
        )
        return [*carry, *ys]
    if kind == "while":
        tested = params["cond_nconsts"]
        begin = tested + params["body_nconsts"]
        test, body = inner("cond_jaxpr"), inner("body_jaxpr")
        return jax.lax.while_loop(
            lambda carry: test(*operands[:tested], *carry)[0],
            lambda carry: body(*operands[tested:begin], *carry),
            operands[begin:],
        )
    if kind == "cond":
        branches = [inner("branches", k) for k in range(len(params["branches"]))]
        return jax.lax.switch(operands[0], branches, *operands[1:])
    raise Different(f"numbers differ within {kind}")


def _deeper(outside, inside) -> int:
    """How many variables have another number of axes outside of a loop than inside."""
    return sum(a.aval.ndim != b.ndim for a, b in zip(outside, inside, strict=True))
