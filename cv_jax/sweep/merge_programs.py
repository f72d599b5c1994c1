"""Merge programs that differ only in numbers into one program that takes the numbers as arguments.

Each program is traced on its own, from its own config, and the traces are compared equation by
equation. Where their literals or constants differ (a learning rate, a seed, the strength of an
augmentation), the merged program takes an argument; everything else must be equal. So the merged
program computes with exactly the numbers of each program, and the code that builds the programs
needs no changes.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

# Primitive that calls one program → its parameter with the program. The calls can be inlined,
# because all differentiation rules have been applied when a step is traced.
CALLS = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "checkpoint": "jaxpr",
    "remat2": "jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
}

Numbers = dict[str, np.ndarray]  # place in a program → number


class Different(Exception):
    """Programs differ in more than numbers; the message contains the place."""


def unify(functions: list[Callable], *arguments: Any) -> tuple[Callable, Numbers]:
    """Merge pure functions of the same arguments.

    Args:
      functions: the functions.
      *arguments: trees of arrays or of their `jax.ShapeDtypeStruct`s.

    Returns:
      `(program, numbers)`: `program(own numbers, *arguments)` is the result of one function;
      `numbers` holds the numbers of all, with the functions along the first axis.

    Raises:
      Different: the functions differ in more than numbers.
    """
    traces = [jax.make_jaxpr(f, return_shape=True)(*arguments) for f in functions]
    structures = {jax.tree.structure(shapes) for _, shapes in traces}
    if len(structures) > 1:
        raise Different("the programs return different structures")
    programs = [program for program, _ in traces]
    numbers: Numbers = {}
    _compare("", programs, numbers)
    (structure,) = structures
    # Every prefix of a place at which numbers differ.
    places = {name[:i] for name in numbers for i, letter in enumerate(name) if letter == "/"}

    def program(own: Numbers, *arguments: Any) -> Any:
        leaves = jax.tree.leaves(arguments)
        out = _Interpreter(own, places).run("", programs[0].jaxpr, programs[0].consts, leaves)
        return jax.tree.unflatten(structure, out)

    jax.eval_shape(program, {name: values[0] for name, values in numbers.items()}, *arguments)
    return program, numbers


# ---- Comparison


def _compare(place: str, programs: list[ClosedJaxpr], numbers: Numbers) -> None:
    """Compare programs, and add the numbers in which they differ to `numbers`."""
    first = programs[0]
    if all(program is first for program in programs):
        return
    jaxprs = [program.jaxpr for program in programs]
    for i, values in enumerate(_aligned(place, [program.consts for program in programs])):
        _compare_values(f"{place}/const {i}", values, numbers)
    indices = [_indices(jaxpr) for jaxpr in jaxprs]
    for variables in ("constvars", "invars"):
        for own in _aligned(place, [getattr(jaxpr, variables) for jaxpr in jaxprs]):
            _must_equal(place, [_kind(variable) for variable in own])
    for i, equations in enumerate(_aligned(place, [jaxpr.eqns for jaxpr in jaxprs])):
        _must_equal(place, [equation.primitive.name for equation in equations])
        here = f"{place}/{i} {equations[0].primitive.name}"
        _compare_operands(here, [e.invars for e in equations], indices, numbers)
        for own in _aligned(here, [equation.outvars for equation in equations]):
            _must_equal(here, [_kind(variable) for variable in own])
        for name in equations[0].params:
            values = [equation.params.get(name) for equation in equations]
            inner = [list(_programs(value)) for value in values]
            for k, own in enumerate(_aligned(here, inner)):
                _compare(f"{here}/{name} {k}", own, numbers)
            # Differentiation rules are not used after a whole step is traced.
            if not inner[0] and not here.endswith(("custom_jvp_call", "custom_vjp_call")):
                _must_equal(f"{here}, {name}", values)
    _compare_operands(f"{place}/out", [jaxpr.outvars for jaxpr in jaxprs], indices, numbers)


def _compare_operands(place, operands, indices, numbers) -> None:
    for k, own in enumerate(_aligned(place, operands)):
        _must_equal(place, [_kind(operand) for operand in own])
        if all(isinstance(operand, Literal) for operand in own):
            _compare_values(f"{place}/operand {k}", [operand.val for operand in own], numbers)
        else:
            pairs = zip(indices, own, strict=True)
            # Literals are not hashable.
            found = [None if isinstance(x, Literal) else index.get(x) for index, x in pairs]
            _must_equal(place, found)


def _compare_values(place, values, numbers) -> None:
    arrays = [np.asarray(value) for value in values]
    _must_equal(place, [(array.shape, array.dtype) for array in arrays])
    if any(array.tobytes() != arrays[0].tobytes() for array in arrays):
        numbers[place] = np.stack(arrays)


def _programs(value: Any) -> Iterator[ClosedJaxpr]:
    """Yield the programs in a parameter of an equation."""
    for item in value if isinstance(value, (tuple, list)) else (value,):
        if isinstance(item, ClosedJaxpr):
            yield item
        elif isinstance(item, Jaxpr):
            yield ClosedJaxpr(item, ())


def _indices(jaxpr: Jaxpr) -> dict[Any, int]:
    """Return variable → its index in the order of binding."""
    bound = [*jaxpr.constvars, *jaxpr.invars]
    bound += [variable for equation in jaxpr.eqns for variable in equation.outvars]
    return {variable: i for i, variable in enumerate(bound)}


def _kind(operand) -> tuple:
    return isinstance(operand, Literal), operand.aval.shape, str(operand.aval.dtype)


def _aligned(place: str, lists: list) -> zip:
    _must_equal(place, [len(own) for own in lists])
    return zip(*lists, strict=True)


def _must_equal(place: str, values: list) -> None:
    for value in values[1:]:
        if value is not values[0] and not np.all(value == values[0]):
            where = place or "at the start"
            raise Different(f"{where}: {values[0]} in one program, {value} in another")


# ---- Evaluation


class _Interpreter(NamedTuple):
    """Evaluates the first program with the numbers of any of them.

    Attributes:
      numbers: place → number.
      places: prefixes of the places of the numbers.
    """

    numbers: Numbers
    places: set[str]

    def run(self, place: str, jaxpr: Jaxpr, consts, arguments) -> list:
        """Return the outputs of a program at a place."""
        values: dict[Any, Any] = {}
        for i, (variable, value) in enumerate(zip(jaxpr.constvars, consts, strict=True)):
            values[variable] = self.numbers.get(f"{place}/const {i}", value)
        values.update(zip(jaxpr.invars, arguments, strict=True))
        for i, equation in enumerate(jaxpr.eqns):
            here = f"{place}/{i} {equation.primitive.name}"
            out = self._apply(here, equation, self._read(here, equation.invars, values))
            values.update(zip(equation.outvars, out, strict=True))
        return self._read(f"{place}/out", jaxpr.outvars, values)

    def _read(self, place, operands, values) -> list:
        return [
            self.numbers.get(f"{place}/operand {k}", operand.val)
            if isinstance(operand, Literal)
            else values[operand]
            for k, operand in enumerate(operands)
        ]

    def _apply(self, place, equation, operands) -> list:
        """Return the outputs of an equation."""
        # Jitted programs are always inlined, because they refer to the devices of their trace.
        if equation.primitive.name in ("jit", "pjit") or any(
            f"{place}/{name} {k}" in self.places
            for name, value in equation.params.items()
            for k, _ in enumerate(_programs(value))
        ):
            return self._apply_inner(place, equation, operands)
        with equation.ctx.manager:
            params = equation.primitive.get_bind_params(equation.params)
            out = equation.primitive.bind(*operands, **params)
        return out if equation.primitive.multiple_results else [out]

    def _inner(self, place, params, name, k=0) -> Callable:
        """Return program `k` in a parameter as a function."""
        program = list(_programs(params[name]))[k]

        def run(*arguments):
            return self.run(f"{place}/{name} {k}", program.jaxpr, program.consts, arguments)

        return run

    def _apply_inner(self, place, equation, operands) -> list:
        """Return the outputs of an equation whose inner programs have different numbers.

        Raises:
          Different: the primitive is not supported.
        """
        kind, params = equation.primitive.name, equation.params
        if kind in CALLS:
            return self._inner(place, params, CALLS[kind])(*operands)
        if kind == "scan":
            return self._scan(self._inner(place, params, "jaxpr"), equation, operands)
        if kind == "while":
            tested = params["cond_nconsts"]
            begin = tested + params["body_nconsts"]
            test = self._inner(place, params, "cond_jaxpr")
            body = self._inner(place, params, "body_jaxpr")
            return jax.lax.while_loop(
                lambda carry: test(*operands[:tested], *carry)[0],
                lambda carry: body(*operands[tested:begin], *carry),
                operands[begin:],
            )
        if kind == "cond":
            count = len(params["branches"])
            branches = [self._inner(place, params, "branches", k) for k in range(count)]
            return jax.lax.switch(operands[0], branches, *operands[1:])
        raise Different(f"numbers differ inside {kind}")

    def _scan(self, body, equation, operands) -> list:
        params = equation.params
        # The last operands and outputs are scanned: outside the loop they have one more axis.
        scanned = _count_deeper(equation.invars, params["jaxpr"].in_avals)
        carried = len(equation.outvars) - _count_deeper(equation.outvars, params["jaxpr"].out_avals)
        consts = len(operands) - scanned - carried

        def scan_body(carry, xs):
            out = body(*operands[:consts], *carry, *xs)
            return out[:carried], out[carried:]

        carry, ys = jax.lax.scan(
            scan_body,
            operands[consts : consts + carried],
            operands[consts + carried :],
            length=params["length"],
            reverse=params["reverse"],
            unroll=params["unroll"],
        )
        return [*carry, *ys]


def _count_deeper(outside, inside) -> int:
    """Count the variables whose number of axes differs between outside and inside a loop."""
    return sum(a.aval.ndim != b.ndim for a, b in zip(outside, inside, strict=True))
