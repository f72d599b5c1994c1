"""bfloat16 parameters: what is float32, compared with NumPy in float64."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from cv_jax import models
from cv_jax.devices import mesh as meshes
from cv_jax.evaluation.step import make_eval_step
from cv_jax.optim.optimisers import Optimiser
from cv_jax.random_streams import stream_key
from cv_jax.training import experiment
from cv_jax.training.gradient import make_gradient

SMALL = {
    "image_size": 12,
    "augment": "resize(12)",
    "eval_preprocess": "resize(12)",
    "batch_size": 32,
    "total_steps": 40,
    "schedule.name": "constant",
    "model.widths": "32",
    "model.dropout_rate": 0,
    "model.param_dtype": "bfloat16",
}
HALF = ml_dtypes.bfloat16


def run(load_config, steps, **overrides):
    """Return the experiment, its initial state, and the states after each step."""
    parts = experiment.build(load_config("mlp", {"mesh.devices": 1, **SMALL, **overrides}))
    state, train_step, states = parts.init()(), parts.train_step(), []
    first, batches = jax.device_get(state), parts.train_batches(0)
    for _ in range(steps):
        state, _ = train_step(state, next(batches))
        states.append(jax.device_get(state))
    batches.close()
    return parts, first, states


def kernel(params):
    return np.asarray(params["fc1"]["kernel"])


TINY = {"ema.decay": 0.999, "optim.name": "lion", "optim.learning_rate": 1e-5, "optim.b2": 0.99}


@pytest.fixture(scope="module", params=[True, False], ids=["master", "rounded"])
def tiny(load_config, request):
    """Twenty updates of ±1e-5 with master weights or without, and their averages."""
    return request.param, *run(load_config, 20, **TINY, **{"optim.master_weights": request.param})


def test_averages_follow_the_parameters(tiny):
    """A decay of 0.999 moves an average by less than bfloat16 resolves."""
    master, _, first, states = tiny
    assert kernel(states[-1].params).dtype == (np.float32 if master else HALF)
    start = average = kernel(first.params).astype(np.float64)
    for state in states:
        average = 0.999 * average + 0.001 * kernel(state.params).astype(np.float64)
    got = kernel(states[-1].ema["params"])
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, average, atol=0.02 * np.abs(average - start).max())


def test_master_weights_keep_updates_below_the_resolution_of_bfloat16(tiny):
    """With the same small updates, rounded parameters stay as they are."""
    master, _, first, states = tiny
    before, after = (kernel(x.params).astype(np.float32) for x in (first, states[-1]))
    if master:
        assert np.abs(after - before).max() == pytest.approx(20e-5, rel=0.01)
    else:
        large = np.abs(before) > 0.01
        np.testing.assert_array_equal(after[large], before[large])


def test_the_train_state_is_float32(tiny):
    master, parts, _, _ = tiny
    state = parts.abstract_state.replace(params=None) if not master else parts.abstract_state
    dtypes = {x.dtype for x in jax.tree.leaves(state)}
    assert dtypes == {jnp.dtype("float32"), jnp.dtype("int32")}


def test_the_model_reads_rounded_parameters_in_training_and_evaluation(tiny):
    master, parts, first, states = tiny
    if not master:
        pytest.skip("the parameters are rounded already")
    draws = models.create("mlp", widths=(32,)).init
    own = jax.jit(draws)(stream_key(0, "init", 0), np.zeros((1, 12, 12, 1), np.float32))["params"]
    np.testing.assert_allclose(kernel(first.params), kernel(own), rtol=1e-6)  # not rounded
    rounded = jax.tree.map(lambda x: x.astype(HALF), first.params)
    batches = parts.train_batches(0)
    batch = {**next(batches), "position": jnp.arange(32)}
    batches.close()
    step = jax.jit(make_eval_step(parts.config, parts.model))
    # The step of a float32 model, with the rounded values, computes the same loss.
    whole = jax.jit(make_eval_step(parts.config, models.create("mlp", widths=(32,))))
    got = step({"params": first.params}, batch)["loss"]
    values = jax.tree.map(lambda x: x.astype(np.float32), rounded)
    np.testing.assert_allclose(got, whole({"params": values}, batch)["loss"], rtol=1e-6)
    assert np.abs(got - whole({"params": first.params}, batch)["loss"]).max() > 1e-4
    sums = states[0].sums
    np.testing.assert_allclose(sums["loss"] / sums["count"], got.mean(), rtol=1e-5)


def test_sums_over_micro_batches_and_devices_are_float32(load_config):
    """One gradient of 1 and seven of 2⁻⁹, which a bfloat16 sum of about 1 would lose."""
    scales = np.array([1] + [2**-9] * 7, np.float32)

    def objective(params, model_state, batch, rngs):
        return (params["w"] * batch["x"].astype(HALF)).sum(), ({}, {})

    everything = Optimiser(None, None, lambda p: (p, None), lambda trained, frozen: trained)
    rngs = {"dropout": jax.random.key(0), "mask": jax.random.key(0)}
    params = ({"w": jnp.ones((), HALF)}, None)
    for devices, fields in (
        (1, {"optim.accumulate_steps": 8}),
        (8, {"mesh.step": "pmap"}),
    ):
        config = load_config("mlp", {"batch_size": 8, **fields})
        mesh = meshes.make_mesh(devices)
        gradient = jax.jit(make_gradient(config, mesh, objective, everything))
        batch = meshes.to_global(mesh, {"x": scales})
        _, grads = gradient(batch, params, {}, {}, rngs, None)
        assert grads["w"].dtype == jnp.float32
        assert grads["w"] == scales.sum() / 8


@pytest.mark.slow
def test_shards_give_the_losses_of_one_device(load_config):
    fsdp = {"mesh.devices": 8, "mesh.params": "fsdp", "mesh.fsdp_min_size": 64}
    _, _, one = run(load_config, 3, **{"ema.decay": 0.99})
    parts, _, many = run(load_config, 3, **{"ema.decay": 0.99, **fsdp})
    for a, b in zip(one, many, strict=True):
        np.testing.assert_allclose(b.sums["loss"], a.sums["loss"], rtol=1e-3)
    assert parts.abstract_state.params["fc1"]["kernel"].dtype == jnp.float32


def test_weights_to_start_from_keep_their_precision(load_config, monkeypatch):
    asked = []
    monkeypatch.setattr(
        experiment.pretrained, "load", lambda config, *rest: asked.append(config.model.param_dtype)
    )
    for master in (True, False):
        fields = {**SMALL, "init_from": "weights", "data.mean": 0.5, "data.std": 0.5}
        fields["optim.master_weights"] = master
        experiment.build(load_config("mlp", fields)).pretrained()
    assert asked == ["float32", "bfloat16"]
