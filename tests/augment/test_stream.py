"""Repeats and views: examples of a batch, and independent augmentation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cv_jax import augment
from cv_jax.augment.batch import augment_batch
from cv_jax.augment.stream import Stream
from cv_jax.data import pipeline, sources
from cv_jax.devices import mesh as meshes
from cv_jax.errors import InputError
from cv_jax.tasks.batch import fold_views
from cv_jax.training import experiment

SIZE = 24


@pytest.fixture(scope="module")
def source(data_dir):
    return sources.open_source("digits", "train", data_dir)


def make(source, string):
    parsed = augment.parse(string)
    return pipeline.TrainBatches(
        pipeline.prepare(source, parsed.fixed, "none"),
        parsed.host,
        seed=1,
        batch_size=SIZE,
        rows=np.arange(SIZE),
        total_steps=200,
        stream=parsed.stream,
    )


def test_parse():
    assert augment.parse("flip").stream == Stream(1, 1)
    assert augment.parse("repeat(3)|views(2)|resize(9)|flip").stream == Stream(3, 2)
    with pytest.raises(InputError, match=r"repeat\(2\) is a stream operation and must stand befo"):
        augment.parse("resize(9)|repeat(2)")
    with pytest.raises(InputError, match="count must be at least 1, got 0"):
        augment.parse("views(0)")


def test_repeats_are_consecutive_and_cover_every_example(source):
    plain, repeated = make(source, "resize(9)"), make(source, "repeat(3)|resize(9)")
    order = [index for at in range(180) for index in repeated.indices(at)]
    assert order[::3] == order[1::3] == order[2::3]
    assert order[::3] == [index for at in range(60) for index in plain.indices(at)]
    # With repeat(3), three epochs of positions are one pass over the split.
    assert sorted(order[: 3 * len(source) : 3]) == list(range(len(source)))


def test_repeats_are_cropped_independently(source):
    batch = make(source, "repeat(3)|resize(12)|random_crop(8)")[0]["image"]
    groups = batch.reshape(8, 3, -1)
    assert np.mean((groups[:, 0] != groups[:, 1]).any(axis=1)) > 0.7


def test_views_on_the_host(source):
    got = make(source, "views(2)|resize(12)|random_crop(8)")[0]
    assert got["image"].shape == (SIZE, 2, 8, 8, 1)
    assert got["label"].shape == (SIZE,)
    assert np.mean((got["image"][:, 0] != got["image"][:, 1]).any(axis=(1, 2, 3))) > 0.7
    # Each view is a window of the same image.
    whole = make(source, "resize(12)")[0]["image"]
    for image, views in zip(whole, got["image"], strict=True):
        windows = np.lib.stride_tricks.sliding_window_view(image[..., 0], (8, 8)).reshape(25, 64)
        for view in views.reshape(2, 64):
            assert (windows == view).all(axis=1).any()


STRING = "views(2)|pad_crop(2)|flip|mixup(0.3)"


def augmented(load_config, string, batch, devices=1, at=4):
    config, parsed = load_config("mlp", {"augment": string}), augment.parse(string)
    mesh = meshes.make_mesh(devices)
    function = jax.jit(lambda b: augment_batch(config, parsed, 10, jnp.int32(at), b))
    return jax.device_get(function(meshes.to_global(mesh, batch)))


@pytest.fixture(scope="module")
def batch():
    draw = np.random.default_rng(0)
    labels = draw.integers(0, 10, 16).astype(np.int32)
    return {"image": draw.integers(0, 256, (16, 8, 8, 1), np.uint8), "label": labels}


def test_views_on_the_device(load_config, batch):
    got = augmented(load_config, STRING, batch)
    assert got["image"].shape == (16, 2, 8, 8, 1)
    assert got["label"].shape == (16, 2, 10)
    np.testing.assert_allclose(got["label"].sum(axis=-1), 1, rtol=1e-6)
    assert (got["image"][:, 0] != got["image"][:, 1]).any(axis=(1, 2, 3)).mean() > 0.9
    assert (got["label"][:, 0] != got["label"][:, 1]).any()  # each view has its own λ
    many = augmented(load_config, STRING, batch, devices=8)
    np.testing.assert_array_equal(got["image"], many["image"])
    np.testing.assert_array_equal(got["label"], many["label"])


def test_unmixed_views_keep_their_label(load_config, batch):
    got = augmented(load_config, "views(3)|flip", batch)
    np.testing.assert_array_equal(got["label"], batch["label"])
    folded = fold_views({**got, "position": np.arange(16)})
    np.testing.assert_array_equal(folded["image"], got["image"].reshape(48, 8, 8, 1))
    np.testing.assert_array_equal(folded["label"], np.repeat(batch["label"], 3))
    np.testing.assert_array_equal(folded["position"], np.arange(48))


def test_folded_soft_labels_match_their_images(load_config, batch):
    got = augmented(load_config, STRING, batch)
    folded = fold_views({**got, "position": np.arange(16)})
    for i in range(16):
        for view in range(2):
            np.testing.assert_array_equal(folded["image"][2 * i + view], got["image"][i, view])
            np.testing.assert_array_equal(folded["label"][2 * i + view], got["label"][i, view])


def test_a_step_learns_from_every_view(load_config):
    """Two equal views have the loss of one view; metrics count both."""
    sizes = {"batch_size": 32, "model.widths": 8, "total_steps": 3, "model.dropout_rate": 0.0}
    losses_of, counts = {}, {}
    for string in ("", "views(2)"):
        parts = experiment.build(load_config("mlp", {**sizes, "augment": string}))
        state, metrics = parts.train_step()(parts.init()(), next(parts.train_batches(0)))
        losses_of[string], counts[string] = float(metrics["loss"]), int(metrics["sums"]["count"])
    np.testing.assert_allclose(losses_of["views(2)"], losses_of[""], rtol=1e-6)
    assert counts == {"": 32, "views(2)": 64}


def test_views_are_not_allowed_in_evaluation(load_config):
    with pytest.raises(InputError, match="config.eval_preprocess: only deterministic operations"):
        experiment.build(load_config("mlp", {"eval_preprocess": "views(2)"}))
