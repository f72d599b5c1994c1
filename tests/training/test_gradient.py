"""Gradients with `mesh.step=pmap`, compared with `mesh.step=jit` and with NumPy."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cv_jax.devices import mesh as meshes
from cv_jax.models.batch_norm import BatchNorm
from cv_jax.optim import optimisers
from cv_jax.training import experiment
from cv_jax.training.gradient import make_gradient

DEVICES, STEPS = 8, 5
COMMON = {
    "image_size": 12,
    "augment": "resize(12)|flip|mixup(0.3)",
    "eval_preprocess": "resize(12)",
    "batch_size": 32,
    "total_steps": STEPS,
    "schedule.warmup_epochs": "none",
}
VIT = {"model.patch_size": 4, "model.width": 32, "model.depth": 1, "model.num_heads": 4}


def run(load_config, name, **overrides):
    parts = experiment.build(load_config(name, {**COMMON, **overrides}))
    state, train_step, batches, found = parts.init()(), parts.train_step(), [], []
    stream = parts.train_batches(0)
    for _ in range(STEPS):
        batches.append(jax.device_get(next(stream)))
        state, metrics = train_step(state, meshes.to_global(parts.mesh, batches[-1]))
        found.append(jax.device_get(metrics))
    return state, found, batches


@pytest.mark.slow
def test_pmap_equals_jit_without_batch_norm_and_dropout(load_config):
    """With mixing and accumulation; up to the rounding of sums in another order."""
    net = {**VIT, "optim.accumulate_steps": 2}
    state, found, _ = run(load_config, "vit_ti16", **net)
    local_state, local, _ = run(load_config, "vit_ti16", **net, **{"mesh.step": "pmap"})
    for a, b in zip(found, local, strict=True):
        np.testing.assert_allclose(b["loss"], a["loss"], rtol=1e-4)
        for name, total in a["sums"].items():
            np.testing.assert_allclose(b["sums"][name], total, rtol=1e-4)
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(local_state), strict=True):
        np.testing.assert_allclose(b, a, atol=1e-4)


def test_dropout_masks_differ_per_device(load_config):
    config = load_config("mlp", {"batch_size": 16, "mesh.step": "pmap"})
    mesh = meshes.make_mesh(DEVICES)

    def objective(params, model_state, batch, rngs):
        kept = nn.Dropout(0.5, deterministic=False).apply({}, batch["x"], rngs=rngs)
        loss = (kept * params["w"]).sum()
        return loss, ({"count": jnp.float32(len(kept))}, {"kept": kept.sum(axis=0)})

    params = {"w": jnp.ones(64)}
    gradient = make_gradient(config, mesh, objective, everything_trained())
    batch = {"x": jnp.ones((16, 64))}
    rngs = {"dropout": jax.random.key(0), "mask": jax.random.key(0)}
    sums = {"count": jnp.float32(0)}
    run = jax.jit(lambda b: gradient(b, (params, None), {"kept": jnp.zeros(64)}, sums, rngs, None))
    (_, (sums, state)), grads = run(meshes.to_global(mesh, batch))
    assert sums["count"] == 16
    # A kept unit has the value 2. The gradient sums the two rows of a device and is averaged over 8
    # devices, so equal masks would give only the values 0, 2 and 4.
    np.testing.assert_array_equal(state["kept"], grads["w"])
    assert len(np.unique(grads["w"])) > 5


def everything_trained():
    return optimisers.Optimiser(
        init=optax.sgd(1.0).init,
        update=optax.sgd(1.0).update,
        split=lambda params: (params, None),
        join=lambda trained, frozen: trained,
    )


class Net(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        return BatchNorm(epsilon=1e-3, param_dtype="float64", dtype="float64")(x, train=train)


def test_batch_norm_uses_the_rows_of_its_device(load_config):
    """Loss, gradient and running statistics of one layer, computed per device in NumPy."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((24, 5)) * np.arange(1, 25)[:, None]  # different scales per device
    target = rng.standard_normal((24, 5))
    scale, bias = rng.standard_normal((2, 5))
    mean, var = rng.standard_normal(5), np.exp(rng.standard_normal(5))
    config = load_config("mlp", {"batch_size": 24, "mesh.step": "pmap"})
    mesh = meshes.make_mesh(DEVICES)

    def objective(params, model_state, batch, rngs):
        variables = {"params": {"BatchNorm_0": params}, "batch_stats": {"BatchNorm_0": model_state}}
        y, new = Net().apply(variables, batch["x"], train=True, mutable=["batch_stats"])
        loss = jnp.mean((y - batch["target"]) ** 2)
        return loss, ({"count": len(y) * jnp.ones(())}, new["batch_stats"]["BatchNorm_0"])

    with jax.enable_x64(True):
        gradient = make_gradient(config, mesh, objective, everything_trained())
        rngs = {"dropout": jax.random.key(0), "mask": jax.random.key(0)}
        params = {"scale": jnp.asarray(scale), "bias": jnp.asarray(bias)}, None
        batch = meshes.to_global(mesh, {"x": x, "target": target})
        run = jax.jit(
            lambda b: gradient(b, params, {"mean": mean, "var": var}, {"count": 0.0}, rngs, None)
        )
        (loss, (sums, state)), grads = jax.device_get(run(batch))

    expected = {"loss": [], "scale": [], "bias": [], "mean": [], "var": []}
    for rows, wanted in zip(np.split(x, DEVICES), np.split(target, DEVICES), strict=True):
        unit = (rows - rows.mean(0)) / np.sqrt(rows.var(0) + 1e-3)
        error = unit * scale + bias - wanted
        expected["loss"].append((error**2).mean())
        expected["scale"].append((2 * error * unit).sum(0) / error.size)
        expected["bias"].append(2 * error.sum(0) / error.size)
        expected["mean"].append(0.9 * mean + 0.1 * rows.mean(0))
        expected["var"].append(0.9 * var + 0.1 * rows.var(0, ddof=1))
    found = {"loss": loss, **grads, **state}
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], np.mean(values, axis=0), rtol=1e-9, err_msg=name)
    assert sums["count"] == 24


@pytest.mark.slow
def test_batch_norm_of_a_resnet(load_config):
    """The first running variance: of the rows of each device with pmap, of the batch with jit."""
    net = {"model.stage_sizes": "1,1,1", "augment": "resize(12)", "total_steps": STEPS}
    data = load_config("resnet20_cifar").data
    mean, std = data.mean[0], data.std[0]
    for step, split in (("pmap", DEVICES), ("jit", 1)):
        config = load_config("resnet20_cifar", {**COMMON, **net, "mesh.step": step})
        parts = experiment.build(config)
        state, batch = parts.init()(), next(parts.train_batches(0))
        kernel = np.asarray(state.params["conv1"]["kernel"], np.float64)
        images = (np.asarray(batch["image"], np.float64) / 255 - mean) / std
        new, _ = parts.train_step()(state, batch)
        padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
        out = np.einsum("bhwcij,ijco->bhwo", windows, kernel)
        local = [rows.reshape(-1, 16).var(0, ddof=1) for rows in np.split(out, split)]
        expected = 0.9 + 0.1 * np.mean(local, axis=0)
        np.testing.assert_allclose(new.model_state["batch_stats"]["bn1"]["var"], expected, 1e-4)
