"""Merged programs: equal results to each single program, or an error with the difference."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cv_jax.sweep.merge_programs import Different, unify

VALUES = (0.5, 2.0, -3.0)


def scan(c):
    def body(carry, x):
        return carry * c + x, jnp.sin(carry * x + c)

    return lambda x: jax.lax.scan(body, x[0], x)


def while_loop(c):
    """A loop with numbers in its condition and in its body, inside a jitted call."""

    @jax.jit
    def function(x):
        return jax.lax.while_loop(lambda s: s.sum() < 50 + c, lambda s: s * 1.5 + abs(c), x)

    return lambda x: function(jnp.abs(x)) + c


def branches(c):
    def function(x):
        index = (x.sum() > 1).astype(jnp.int32)
        return jax.lax.switch(index, [lambda y: y * c, lambda y: jnp.tanh(y - c)], x)

    return function


def gradient(c):
    """Differentiation rules, rematerialisation and an optimiser."""

    def loss(x):
        return jax.checkpoint(lambda y: jax.nn.relu(y * c).sum() + optax.safe_norm(y, c))(x)

    def function(x):
        optimiser = optax.adamw(0.1 * abs(c), weight_decay=abs(c))
        return optimiser.update(jax.grad(loss)(x), optimiser.init(x), x)[0]

    return function


def random(c):
    def function(x):
        key = jax.random.fold_in(jax.random.key(int(abs(c) * 10)), 3)
        return x + jax.random.beta(key, abs(c), abs(c), x.shape) + jax.random.bernoulli(key, 0.1)

    return function


def constants(c):
    """An array constant and a scalar constant."""
    return lambda x: x * np.array([1.0, c, 2.0], np.float32) + 0.5 * c


def outputs(c):
    """Numbers that are outputs of the program."""
    return lambda x: {"x": x, "c": jnp.float32(c), "same": jnp.float32(7)}


def assert_close(got, expected):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-6, atol=2e-6), got, expected)


@pytest.mark.parametrize(
    "make",
    [scan, while_loop, branches, gradient, random, constants, outputs],
    ids=lambda f: f.__name__,
)
def test_the_merged_program_computes_what_each_program_computes(make):
    x = jnp.array([0.3, -1.2, 0.7])
    functions = [make(c) for c in VALUES]
    program, numbers = unify(functions, jax.ShapeDtypeStruct(x.shape, x.dtype))
    assert numbers
    own = [{name: values[i] for name, values in numbers.items()} for i in range(3)]
    together = jax.jit(jax.vmap(program, in_axes=(0, None)))(numbers, x)
    for i, function in enumerate(functions):
        expected = jax.jit(function)(x)
        assert jax.tree.structure(expected) == jax.tree.structure(together)
        assert_close(jax.jit(program)(own[i], x), expected)
        assert_close(jax.tree.map(lambda a, i=i: a[i], together), expected)


def test_equal_programs_have_no_numbers():
    assert unify([scan(2.0), scan(2.0)], jnp.ones(3))[1] == {}


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (lambda x: x + 1, lambda x: x * 1, "add in one program, mul in another"),
        (lambda x: x, lambda x: (x, x), "return different structures"),
        (lambda x: x @ x, lambda x: x @ (x + 1), "in one"),
        (lambda x: x.sum(0), lambda x: x.sum(1), "axes: (0,) in one program, (1,) in another"),
        (lambda x: x + jnp.ones(3), lambda x: x + jnp.ones((3, 1)), "in one"),
        (lambda x: x * np.float32(2), lambda x: x * np.ones((3, 3), np.float32), "in one"),
        (lambda x: x + x.T, lambda x: x.T + x, "in one"),
        (
            lambda x: jax.lax.scan(lambda c, _: (c + 1, None), x, length=2)[0],
            lambda x: jax.lax.scan(lambda c, _: (c + 1, None), x, length=3)[0],
            "length: 2 in one program, 3 in another",
        ),
    ],
)
def test_other_differences_are_errors(a, b, message):
    with pytest.raises(Different) as caught:
        unify([a, b], jnp.ones((3, 3)))
    assert message in str(caught.value)
