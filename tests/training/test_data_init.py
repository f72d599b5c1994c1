"""Initial values that depend on training images: `Entry.data_init`."""

import jax
import numpy as np
import pytest

from cv_jax.models import airbench
from cv_jax.sweep import vmapped
from cv_jax.training import experiment, loop

SMALL = {
    "model.widths": "4,4",
    "image_size": 16,
    "batch_size": 8,
    "total_steps": 2,
    "augment": "resize(16)|flip",
    "eval_preprocess": "resize(16)",
    "mesh.devices": 1,
    "eval.batch_size": 64,
    "schedule.warmup_epochs": "none",
}


def build(load_config, **overrides):
    return experiment.build(
        load_config("lenet5", {**SMALL, **overrides}, "digits,model=airbench94")
    )


def kernel(state):
    return np.asarray(state.params["whiten"]["kernel"])


def expected_kernel(parts, images):
    c = parts.config.data
    x = (np.asarray(images, np.float32) / 255 - np.float32(c.mean)) / np.float32(c.std)
    return np.asarray(airbench.whitening_kernel(x))


@pytest.mark.parametrize("cache", ["memory", "none"])
def test_the_first_training_images_without_device_augmentation(load_config, cache):
    parts = build(load_config, **{"data.cache": cache})
    images = [parts.train_images.get(i)[0] for i in range(len(parts.train_images.source))]
    np.testing.assert_array_equal(parts.initial_images(), images[: airbench.WHITEN_EXAMPLES])
    expected = expected_kernel(parts, images)
    # Eigenvectors of equal signs; their error is that of float32 moments.
    np.testing.assert_allclose(kernel(parts.init()()), expected, rtol=0.02, atol=0.02)


def test_a_large_split_gives_its_first_images(load_config, monkeypatch):
    entry = experiment.models.MODELS["airbench94"]
    few = entry._replace(data_init=entry.data_init._replace(examples=50))
    monkeypatch.setitem(experiment.models.MODELS, "airbench94", few)
    parts = build(load_config, augment="resize(20)|random_crop(16)")
    images = parts.initial_images()
    assert images.shape == (50, 16, 16, 1)
    np.testing.assert_array_equal(
        images, build(load_config, augment=parts.config.augment).initial_images()
    )
    other = build(load_config, augment=parts.config.augment, seed=1).initial_images()
    assert (images != other).any()


def test_the_values_do_not_depend_on_the_number_of_devices(load_config):
    one = jax.device_get(build(load_config).init()().params)
    eight = jax.device_get(build(load_config, **{"mesh.devices": 8}).init()().params)
    for a, b in zip(*map(jax.tree.leaves, (one, eight)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_given_weights_are_kept(load_config):
    parts = build(load_config)
    variables = jax.device_get(parts.init()().eval_variables)
    variables["params"]["whiten"]["kernel"] = np.ones((2, 2, 1, 8), np.float32)
    np.testing.assert_array_equal(kernel(parts.init()(variables)), 1)


def test_a_restart_does_not_compute_them_again(load_config, tmp_path, monkeypatch):
    """The frozen kernel of the last checkpoint has the bits of the first state."""
    frozen = {"optim.rules": "whiten/kernel: freeze", "checkpoint.every_steps": 1}
    parts = build(load_config, **frozen)
    assert loop.train(parts, tmp_path, "") == 0
    (tmp_path / "summary.json").unlink()
    monkeypatch.setattr(experiment.pipeline, "first_images", None)
    restored = parts.record(tmp_path).restore(parts.abstract_state)
    assert restored[1] == 2
    assert loop.train(build(load_config, **frozen), tmp_path, "") == 0
    monkeypatch.undo()
    np.testing.assert_array_equal(kernel(restored[0]), kernel(parts.init()()))


def test_trials_in_one_program(load_config, tmp_path):
    """Each trial has the kernel of its own run."""
    configs = []
    for seed in (0, 1):
        parts = build(
            load_config,
            seed=seed,
            augment="resize(20)|random_crop(16)",
            **{"optim.rules": "whiten/kernel: freeze"},
        )
        configs.append(parts.config)
    folders = [tmp_path / str(i) for i in range(2)]
    assert vmapped.run(dict(zip(folders, configs, strict=True)), print) == [0, 0]
    for folder, config in zip(folders, configs, strict=True):
        parts = experiment.build(config)
        found = kernel(parts.record(folder).restore(parts.abstract_state)[0])
        expected = kernel(parts.init()())
        np.testing.assert_allclose(np.abs(found), np.abs(expected), rtol=0.02, atol=0.02)
