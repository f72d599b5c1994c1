"""Meshes, and equal results on one and on eight devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cv_jax import augment
from cv_jax.augment.batch import augment_batch
from cv_jax.devices import mesh as meshes
from cv_jax.errors import InputError
from cv_jax.training import experiment

pytestmark = pytest.mark.usefixtures("full_optimisation")

AUGMENT = "resize(16)|random_crop(12)|pad_crop(2)|flip|mixup(0.3)"
SMALL_VIT = {
    "image_size": 12,
    "augment": AUGMENT,
    "eval_preprocess": "resize(16)|central_crop(12)",
    "batch_size": 32,
    "total_steps": 20,
    "schedule.warmup_epochs": "none",
    "model.patch_size": 4,
    "model.width": 32,
    "model.depth": 2,
    "model.num_heads": 4,
    "ema.decay": 0.9,
}


def run(load_config, devices, steps, **overrides):
    parts = experiment.build(
        load_config("vit_ti16", {**SMALL_VIT, "mesh.devices": devices, **overrides})
    )
    state, train_step, losses = parts.init()(), parts.train_step(), []
    batches = parts.train_batches(0)
    for _ in range(steps):
        state, metrics = train_step(state, next(batches))
        losses.append(float(metrics["loss"]))
    return np.array(losses), jax.device_get(state)


@pytest.mark.slow
def test_losses_agree_to_rounding_over_twenty_steps(load_config):
    one, state_one = run(load_config, 1, 20)
    eight, state_eight = run(load_config, 8, 20)
    assert one[-1] < one[0]
    # The summation order of gradients differs; float32 rounding errors grow over 20 updates.
    np.testing.assert_allclose(eight, one, rtol=1e-4)
    for a, b in zip(jax.tree.leaves(state_one.ema), jax.tree.leaves(state_eight.ema), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)
    assert state_one.sums["count"] == state_eight.sums["count"] == 20 * 32


@pytest.mark.slow
def test_dropout_does_not_depend_on_the_number_of_devices(load_config):
    dropped = {"model.dropout_rate": 0.3, "model.drop_path_rate": 0.3}
    one, _ = run(load_config, 1, 3, **dropped)
    eight, _ = run(load_config, 8, 3, **dropped)
    np.testing.assert_allclose(eight, one, rtol=1e-4)
    plain, _ = run(load_config, 1, 3)
    assert np.abs(plain - one).max() > 5e-4  # above the tolerance


@pytest.mark.parametrize("count", [2, 8])
def test_augmented_pixels_are_the_same_bit_for_bit(load_config, count):
    config = load_config("vit_ti16", SMALL_VIT)
    augmentation = augment.parse(AUGMENT)
    draw = np.random.default_rng(0)
    batch = {
        "image": draw.integers(0, 256, (32, 12, 12, 1), np.uint8),
        "label": draw.integers(0, 10, 32).astype(np.int32),
    }

    def pixels(devices):
        mesh = meshes.make_mesh(devices)
        function = jax.jit(lambda b: augment_batch(config, augmentation, 10, jnp.int32(5), b))
        return jax.device_get(function(meshes.to_global(mesh, batch)))

    one, many = pixels(1), pixels(count)
    np.testing.assert_array_equal(one["image"], many["image"])
    np.testing.assert_array_equal(one["label"], many["label"])


def test_augmentation_depends_on_the_step(load_config):
    config = load_config("vit_ti16", SMALL_VIT)
    batch = {"image": np.full((4, 12, 12, 1), 7, np.uint8), "label": np.arange(4)}
    batch["image"][:, 3, 5] = 200

    def pixels(at):
        return augment_batch(config, augment.parse(AUGMENT), 10, jnp.int32(at), batch)

    assert not np.array_equal(pixels(0)["image"], pixels(1)["image"])
    np.testing.assert_array_equal(pixels(1)["image"], pixels(1)["image"])


def test_a_batch_must_divide_over_the_devices():
    mesh = meshes.make_mesh(8)
    meshes.check_batch("config.batch_size", 64, mesh)
    with pytest.raises(InputError, match="config.batch_size=100 does not divide over 8 devices; n"):
        meshes.check_batch("config.batch_size", 100, mesh)
    with pytest.raises(InputError, match="there are 8 devices"):
        meshes.make_mesh(9)


def test_rows_of_one_process_are_all_rows():
    np.testing.assert_array_equal(meshes.local_rows(meshes.make_mesh(8), 24), np.arange(24))
