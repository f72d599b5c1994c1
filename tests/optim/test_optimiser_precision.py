"""Optimisers with moments or parameters in bfloat16."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from updates import SHAPES, UPDATES, draws, optimiser_of, run, sizes, tree

from cv_jax.optim import optimisers


@pytest.mark.parametrize("name", ["sgd", "adamw", "lion", "adafactor", "muon"])
def test_moments_in_half_precision(name):
    values, gradients = draws(0, 0.5), [tree(draws(seed, 3)) for seed in (1, 2, 3)]

    def after(dtype):
        decays = dict(b1=0.8, b2=0.99 if name == "lion" else 0.999)
        optimiser = optimiser_of(tree(values), name=name, moment_dtype=dtype, **decays)
        return run(optimiser, tree(values), gradients)

    (exact, plain), (got, state) = after("float32"), after("bfloat16")
    halves = sum(x.size for x in jax.tree.leaves(state) if x.dtype == jnp.bfloat16)
    assert halves == sum(np.prod(shape) for shape in SHAPES.values())
    assert sizes(state) == sizes(plain)
    for n, x in got.items():
        moved = np.abs(exact[n] - values[n]).max()
        # Signs of Lion can differ where its moment is almost zero.
        assert np.median(np.abs(x - exact[n])) < 0.02 * moved, n


@pytest.mark.parametrize("name", ["adamw", "lamb", "adafactor", "muon", "lion", "lars"])
def test_bfloat16_parameters_have_the_updates_of_float32_parameters(name):
    """Also the global norm of the gradient and the weight decay are computed in float32."""
    halves = [
        jax.tree.map(lambda x: x.astype(jnp.bfloat16), tree(draws(seed, 0.5)))
        for seed in range(1 + UPDATES)
    ]
    optimiser = optimiser_of(halves[0], name=name, clip_norm=0.3)
    wide = [jax.tree.map(lambda x: x.astype(jnp.float32), half) for half in halves]
    found = []
    for params, *gradients in (halves, wide):
        state, update = optimiser.init(params), jax.jit(optimiser.update)
        for gradient in gradients:
            updates, state = update(gradient, state, params)
        found.append((updates, state))
    for got, expected in zip(*map(jax.tree.leaves, found), strict=True):
        assert got.dtype == expected.dtype != jnp.bfloat16
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-7)


def test_the_second_moment_of_bfloat16_parameters_follows_the_gradient():
    """A large gradient, then 3,000 small ones; in bfloat16 the moment would stay large."""
    params = {"w": jnp.ones(4, jnp.bfloat16)}
    optimiser = optimiser_of(params)
    gradients = np.r_[np.full(400, 0.8), np.full(3000, 0.14)].astype(jnp.bfloat16)

    def step(state, gradient):
        gradient = {"w": jnp.full(4, gradient)}
        return optimiser.update(gradient, state, params)[1], None

    state, _ = jax.lax.scan(step, optimiser.init(params), jnp.asarray(gradients))
    expected = 0.0
    for g in gradients.astype(np.float64):
        expected = 0.999 * expected + 0.001 * g**2
    (second,) = (x.nu["w"] for x in state if hasattr(x, "nu"))
    np.testing.assert_allclose(second, expected, rtol=1e-3)


def test_the_slowest_decay_of_a_bfloat16_moment():
    numbers = np.float32(1 + np.arange(128) / 128)  # every significand
    for decay, falls in ((optimisers.SLOWEST, True), (0.9962, False)):
        decayed = (decay * numbers).astype(jnp.bfloat16).astype(np.float32)
        assert (decayed < numbers).all() == falls
