"""Norms of the layers: correct, and without effect on the training."""

import jax
import numpy as np
import pytest
from slow import slow_except

from cv_jax.training import experiment
from cv_jax.training.step import layer_norms

pytestmark = pytest.mark.usefixtures("full_optimisation")

NETS = {
    "mlp": {"model.widths": "16,12", "augment": "pad_crop(2)|mixup(0.2)"},
    "resnet": {
        "model.widths": "4,4,4",
        "model.stem_width": 4,
        "model.stage_sizes": "1,1,1",
        "image_size": 8,
        "schedule.warmup_epochs": "none",
    },
    "vit_ti16": {
        "model.patch_size": 8,
        "model.width": 16,
        "model.depth": 1,
        "model.num_heads": 2,
        "image_size": 16,
        "schedule.warmup_epochs": "none",
        "optim.clip_norm": 0.5,
        "ema.decay": 0.9,
    },
}


def train(load_config, name, norms, steps=3):
    overrides = {**NETS[name], "mesh.devices": 1, "batch_size": 16, "total_steps": 10}
    parts = experiment.build(load_config(name, {**overrides, "log.norms": norms}))
    state, train_step, batches = parts.init()(), parts.train_step(), parts.train_batches(0)
    for _ in range(steps):
        state, metrics = train_step(state, next(batches))
    return jax.device_get(state), jax.device_get(metrics)


@pytest.mark.parametrize("name", slow_except(NETS, "mlp", "resnet"))
def test_norms_are_correct_and_change_no_bit_of_the_training(load_config, name):
    plain, without = train(load_config, name, False)
    state, with_norms = train(load_config, name, True)
    assert "norms" not in without
    leaves = jax.tree_util.tree_leaves_with_path(plain)
    for (path, a), b in zip(leaves, jax.tree.leaves(state), strict=True):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes(), jax.tree_util.keystr(path)
    assert without["loss"].tobytes() == with_norms["loss"].tobytes()

    norms = with_norms["norms"]
    flat = jax.tree_util.tree_leaves_with_path(state.params)
    every = np.concatenate([leaf.ravel() for _, leaf in flat]).astype(np.float64)
    np.testing.assert_allclose(norms["weight"], np.linalg.norm(every), rtol=1e-5)
    assert norms["gradient"] > 0
    if name == "mlp":
        layer = state.params["fc1"]
        both = np.concatenate([layer["kernel"].ravel(), layer["bias"]])
        np.testing.assert_allclose(norms["weight/fc1"], np.linalg.norm(both), rtol=1e-5)
        layers = {"fc1", "fc2", "head"}
        assert set(norms) == {
            f"{what}{layer}"
            for what in ("gradient", "weight")
            for layer in ["", *(f"/{x}" for x in layers)]
        }


def test_norms_of_a_known_tree():
    tree = {"a": {"kernel": np.full((2, 2), 3.0), "b": {"scale": np.array([4.0])}}, "c": {}}
    found = layer_norms("gradient", tree)
    assert {name: float(x) for name, x in found.items()} == {
        "gradient": np.float32(np.sqrt(52)),
        "gradient/a": 6.0,
        "gradient/a/b": 4.0,
    }
