"""Schedules and optimisers, against NumPy written from the papers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cv_jax import config, models, optim
from cv_jax.errors import InputError


def settings(schedule=None, **optimiser):
    c = config.default(model="mlp")
    for name, value in optimiser.items():
        c.optim[name] = value
    for name, value in (schedule or {}).items():
        c.schedule[name] = value
    return c


def rates(total, examples=1280, **schedule):
    c = settings(schedule, learning_rate=0.5)
    schedule = optim.make_schedule(c, total, examples)
    return np.array([schedule(step) for step in range(total)])


def test_constant():
    np.testing.assert_allclose(rates(5, name="constant"), 0.5)


def test_cosine_after_warmup():
    got = rates(110, name="cosine", warmup_epochs=1, end_factor=0.1)  # 1280 / 128 = 10 steps
    step = np.arange(110)
    share = (step - 10) / 100
    cosine = 0.5 * (0.1 + 0.9 * 0.5 * (1 + np.cos(np.pi * share)))
    np.testing.assert_allclose(got, np.where(step < 10, 0.5 * step / 10, cosine), rtol=1e-5)


def test_linear_after_warmup():
    got = rates(50, name="linear", warmup_percent=20.0)
    step = np.arange(50)
    expected = np.where(step < 10, step / 10, 1 - (step - 10) / 40) * 0.5
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-7)


def test_steps_fall_at_their_percents_of_the_whole():
    got = rates(100, name="step", milestones=(50.0, 75.0), decay_factor=0.1, warmup_steps=10)
    step = np.arange(100)
    expected = 0.5 * np.select([step < 10, step < 50, step < 75], [step / 10, 1, 0.1], 0.01)
    np.testing.assert_allclose(got, expected, rtol=1e-5)


# Names and values of a small model; everything below is checked on these.
PARAMS = {"fc1": {"kernel": np.array([[1.0, -2.0], [0.5, 3.0]]), "bias": np.array([0.1, -0.2])}}


def gradients():
    draw = np.random.default_rng(0)
    for _ in range(4):
        yield {
            "fc1": {"kernel": draw.normal(size=(2, 2)) * 3, "bias": draw.normal(size=2) * 3},
        }


def run(c):
    schedule = optim.make_schedule(c, 10, 1280)
    optimiser = optim.make_optimiser(c, schedule)
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), PARAMS)
    state = optimiser.init(params)
    for grads in gradients():
        grads = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), grads)
        updates, state = optimiser.update(grads, state, params)
        params = jax.tree.map(jnp.add, params, updates)
    return params["fc1"]


def reference(direction, decay, decoupled, clip=None):
    """The same four updates in float64: `direction(name, gradient, count)` holds the moments."""
    values = {name: value.copy() for name, value in PARAMS["fc1"].items()}
    for count, grads in enumerate(gradients(), 1):
        grads = grads["fc1"]
        if clip:
            norm = np.sqrt(sum((g**2).sum() for g in grads.values()))
            grads = {name: g * min(1, clip / norm) for name, g in grads.items()}
        rate = 0.1 * (1 - (count - 1) / 10)
        for name in values:
            shrink = decay if name == "kernel" else 0.0
            gradient = grads[name] + (0 if decoupled else shrink * values[name])
            step = direction(name, gradient, count)
            values[name] -= rate * (step + (shrink * values[name] if decoupled else 0))
    return values


def momentum(m, nesterov):
    trace = {}

    def direction(name, gradient, count):
        trace[name] = gradient + m * trace.get(name, 0)
        return gradient + m * trace[name] if nesterov else trace[name]

    return direction


def adam(b1, b2, eps):
    first, second = {}, {}

    def direction(name, g, count):
        first[name] = b1 * first.get(name, 0) + (1 - b1) * g
        second[name] = b2 * second.get(name, 0) + (1 - b2) * g**2
        unbiased = second[name] / (1 - b2**count)
        return first[name] / (1 - b1**count) / (np.sqrt(unbiased) + eps)

    return direction


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (
            {"name": "sgd", "momentum": 0.0},
            lambda: reference(lambda name, g, count: g, 0.01, False),
        ),
        (
            {"name": "sgd", "momentum": 0.9},
            lambda: reference(momentum(0.9, False), 0.01, False),
        ),
        (
            {"name": "sgd", "momentum": 0.9, "nesterov": True, "clip_norm": 1.0},
            lambda: reference(momentum(0.9, True), 0.01, False, clip=1.0),
        ),
        (
            {"name": "adam", "b2": 0.99},
            lambda: reference(adam(0.9, 0.99, 1e-8), 0.01, False),
        ),
        (
            {"name": "adamw", "b1": 0.8, "b2": 0.95, "eps": 1e-3, "clip_norm": 2.0},
            lambda: reference(adam(0.8, 0.95, 1e-3), 0.01, True, clip=2.0),
        ),
    ],
)
def test_the_first_updates(fields, expected):
    c = settings({"name": "linear"}, learning_rate=0.1, weight_decay=0.01, **fields)
    got = run(c)
    for name, value in expected().items():
        np.testing.assert_allclose(got[name], value, rtol=2e-5, atol=1e-6)


def test_vit_decays_its_kernels_only():
    model = models.create("vit_ti16", num_classes=10, image_size=32, depth=1)
    image = jnp.zeros((1, 32, 32, 3))
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), image))
    excluded = optim.matches(variables["params"], config.default().optim.no_decay)
    leaves = jax.tree_util.tree_leaves_with_path(excluded)
    names = {jax.tree_util.keystr(p, simple=True, separator="/"): no for p, no in leaves}
    assert {name for name, no in names.items() if not no} == {
        "patch_embed/kernel",
        "blocks_0/attn/qkv/kernel",
        "blocks_0/attn/proj/kernel",
        "blocks_0/mlp/fc1/kernel",
        "blocks_0/mlp/fc2/kernel",
        "head/kernel",
    }
    assert {"cls_token", "pos_embed", "norm/scale", "blocks_0/norm1/bias"} < set(names)


@pytest.mark.parametrize(
    ("schedule", "optimiser", "said"),
    [
        ({}, {"name": "adamv"}, "unknown optimiser 'adamv'; allowed: sgd, adam, adamw"),
        ({}, {"clip_norm": 0.0}, "must be positive, or none"),
        ({}, {"no_decay": ("(",)}, "config.optim.no_decay"),
        ({"name": "cosin"}, {}, "unknown schedule 'cosin'; allowed: constant"),
        ({"warmup_steps": 11}, {}, "warmup is 11 steps, the whole training only 10"),
    ],
)
def test_mistakes(schedule, optimiser, said):
    c = settings(schedule, **optimiser)
    with pytest.raises(InputError, match=said):
        optim.make_optimiser(c, optim.make_schedule(c, 10, 1280))
