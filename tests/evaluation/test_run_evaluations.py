"""Exact evaluation on any number of devices, and averaged views."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from sklearn.metrics import accuracy_score, log_loss

from cv_jax import augment
from cv_jax.augment.views import apply_views, split
from cv_jax.errors import RunError
from cv_jax.evaluation import metrics, run
from cv_jax.evaluation.kinds import make_evaluator
from cv_jax.evaluation.step import make_eval_step
from cv_jax.training import experiment

LAYOUTS = [(1, 359), (1, 50), (3, 48), (8, 64), (8, 400)]


def build(load_config, devices, batch_size, **overrides):
    sizes = {"mesh.devices": devices, "eval.batch_size": batch_size, "batch_size": 24}
    return experiment.build(load_config("mlp", {"model.widths": 16, **sizes, **overrides}))


def scores_of(parts, variables):
    return make_evaluator(parts, parts.evaluations[0])(variables)


def pixels(images):
    return (images.astype(np.float32) / 255 - 0.305) / 0.376  # the config's mean and deviation


@pytest.fixture(scope="module")
def expected(load_config):
    """Variables of a model, and its accuracy and loss by scikit-learn."""
    parts = build(load_config, 1, 100)
    variables = jax.device_get(parts.init()().eval_variables)
    images, labels = parts.evaluations[0].images.cached
    logits, _ = parts.model.apply(variables, pixels(images))
    probabilities = scipy.special.softmax(np.asarray(logits, np.float64), axis=1)
    correct = accuracy_score(labels, logits.argmax(axis=1), normalize=False)
    return variables, correct, log_loss(labels, probabilities)


@pytest.mark.parametrize(("devices", "batch_size"), LAYOUTS)
def test_counts_are_the_same_on_any_number_of_devices(load_config, expected, devices, batch_size):
    variables, correct, loss = expected
    got = scores_of(build(load_config, devices, batch_size), variables).metrics
    assert (got["correct"], got["count"]) == (correct, 359)
    assert got["accuracy"] == correct / 359
    np.testing.assert_allclose(got["loss"], loss, rtol=1e-5)
    np.testing.assert_allclose(got["nll"], loss, rtol=1e-5)


def test_equal_predictions_give_equal_metrics_in_every_layout(load_config):
    """Predictions are looked up by position: only padding, order and sums can be wrong."""
    rng = np.random.default_rng(0)
    known = {
        "loss": rng.gamma(1, size=359).astype(np.float32),
        "nll": rng.gamma(1, size=359).astype(np.float32),
        "brier": rng.uniform(0, 2, 359).astype(np.float32),
        "confidence": rng.uniform(0, 1, 359).astype(np.float32),
        "rank": rng.integers(0, 10, 359).astype(np.int32),
        "prediction": rng.integers(0, 10, 359).astype(np.int32),
    }

    def look_up(variables, batch):
        found = {name: jnp.asarray(x)[batch["position"] % 359] for name, x in known.items()}
        # A prediction for padding would make the mean loss `nan`.
        found["loss"] = jnp.where(batch["position"] < 359, found["loss"], jnp.nan)
        return {**found, "label": batch["label"], "position": batch["position"]}

    got = []
    for devices, batch_size in LAYOUTS:
        parts = build(load_config, devices, batch_size)
        images = parts.evaluations[0].images
        predictions = run.gather(jax.jit(look_up), {}, parts.eval_batches(images), 359)
        np.testing.assert_array_equal(predictions["label"], images.cached[1])
        got.append((metrics.summary(predictions, 10), metrics.details(predictions, 10)))
    assert all(found == got[0] for found in got)
    np.testing.assert_allclose(got[0][0]["loss"], np.mean(known["loss"], dtype=np.float64))


def test_a_missing_or_repeated_example_is_an_error():
    def batches(positions):
        return [{"position": np.array(part)} for part in positions]

    def same(variables, batch):
        return batch

    assert len(run.gather(same, {}, batches([[0, 1], [2, 3]]), 3)["position"]) == 3
    for wrong in ([[0, 1], [3, 4]], [[0, 1], [1, 2]], [[1, 0], [2, 3]]):
        with pytest.raises(RunError, match="did not process each of 3 examples once"):
            run.gather(same, {}, batches(wrong), 3)


# ---- Views

VIEWS = "resize(40)|ten_crop(32)|flips"


@pytest.mark.parametrize("average", ["probabilities", "logits"])
def test_views_against_a_loop_over_them(load_config, expected, average):
    variables = expected[0]
    overrides = {"eval_preprocess": VIEWS, "eval.average": average}
    parts = build(load_config, 8, 64, **overrides)
    step = parts.evaluation_step(make_eval_step, average)
    images, views = parts.evaluations[0].images, parts.evaluations[0].views
    found = run.predict(parts, step, variables, images, views)
    source, operations = parts.evaluations[0].images.source, augment.parse(VIEWS)
    apply = jax.jit(lambda images: parts.model.apply(variables, images)[0])
    for i in (0, 7, 358):
        image, label = source.example(i)
        (views,) = apply_views(operations.test, augment.apply_host(operations.fixed, None, image))
        assert views.shape == (20, 32, 32, 1)
        logits = np.stack([np.asarray(apply(pixels(view[None])), np.float64)[0] for view in views])
        if average == "probabilities":
            p = scipy.special.softmax(logits, axis=1).mean(axis=0)
        else:
            p = scipy.special.softmax(logits.mean(axis=0))
        np.testing.assert_allclose(found["loss"][i], -np.log(p[label]), rtol=1e-5)
        np.testing.assert_allclose(found["confidence"][i], p.max(), rtol=1e-5)
        assert found["prediction"][i] == p.argmax()


@pytest.mark.parametrize("average", ["probabilities", "logits"])
def test_views_with_weights(load_config, expected, average):
    """`infer_mirror_translate` of airbench94_muon.py, on the images instead of padded ones."""
    variables, text = expected[0], "resize(32)|diagonal_shifts|flips"
    parts = build(load_config, 8, 64, **{"eval_preprocess": text, "eval.average": average})
    step = parts.evaluation_step(make_eval_step, average)
    evaluation = parts.evaluations[0]
    found = run.predict(parts, step, variables, evaluation.images, evaluation.views)
    images = np.stack([evaluation.images.get(i)[0] for i in range(359)])
    labels = np.array([evaluation.images.get(i)[1] for i in range(359)])

    def net(images):
        logits = np.asarray(parts.model.apply(variables, pixels(images))[0], np.float64)
        return logits if average == "logits" else scipy.special.softmax(logits, axis=1)

    def mirror(images):
        return 0.5 * net(images) + 0.5 * net(images[:, :, ::-1])

    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), "reflect")
    shifted = (mirror(padded[:, :32, :32]) + mirror(padded[:, 2:, 2:])) / 2
    p = 0.5 * mirror(images) + 0.5 * shifted
    p = scipy.special.softmax(p, axis=1) if average == "logits" else p
    np.testing.assert_allclose(found["loss"], -np.log(p[np.arange(359), labels]), rtol=2e-4)
    # The evaluator computes these views on the device.
    assert evaluation.views == split(evaluation.views)[1]
    scores = scores_of(parts, variables)
    for name in ("loss", "confidence", "prediction"):
        np.testing.assert_allclose(scores.predictions[name], found[name], rtol=1e-6)
    np.testing.assert_allclose(found["confidence"], p.max(axis=1), rtol=1e-4)


@pytest.mark.parametrize("devices", [3, 8])
def test_views_on_any_number_of_devices(load_config, expected, devices):
    one, many = (
        scores_of(build(load_config, d, 24 * d, eval_preprocess=VIEWS), expected[0]).metrics
        for d in (1, devices)
    )
    assert one["correct"] == many["correct"]
    np.testing.assert_allclose(one["loss"], many["loss"], rtol=1e-6)


SMALL_RESNET = {"model.widths": "4,4,4", "model.stem_width": 4, "model.stage_sizes": "1,1,1"}


@pytest.mark.slow
def test_views_of_several_sizes(load_config):
    """Two views of each of two sizes: the mean of four predictions."""
    text = "multi_scale((16, 24))|flips"
    overrides = {**SMALL_RESNET, "image_size": 16, "eval_preprocess": text, "mesh.devices": 1}
    parts = experiment.build(load_config("resnet", {**overrides, "eval.batch_size": 200}))
    variables = parts.init()().eval_variables
    evaluation, operations = parts.evaluations[0], augment.parse(text)
    batches = parts.eval_batches(evaluation.images, evaluation.views)
    found = run.gather(parts.evaluation_step(make_eval_step), variables, batches, 359)
    image, label = evaluation.images.source.example(5)
    groups = apply_views(operations.test, image)
    assert [views.shape for views in groups] == [(2, 16, 16, 1), (2, 24, 24, 1)]
    p = [
        scipy.special.softmax(np.asarray(parts.model.apply(variables, x)[0], np.float64), axis=1)
        for x in map(pixels, groups)
    ]
    np.testing.assert_allclose(
        found["loss"][5], -np.log(np.concatenate(p).mean(axis=0)[label]), rtol=1e-4
    )
