"""Exact evaluation on any number of devices."""

import jax
import numpy as np
import pytest
from sklearn.metrics import accuracy_score, log_loss

from cv_jax import experiment
from cv_jax.evaluate import evaluate


def build(load_config, devices, batch_size):
    overrides = {"mesh.devices": devices, "eval.batch_size": batch_size, "batch_size": 24}
    return experiment.build(load_config("mlp", {"model.widths": 16, **overrides}))


@pytest.fixture(scope="module")
def expected(load_config):
    """Variables of one net, and its labels, scores and their metrics by scikit-learn."""
    parts = build(load_config, 1, 100)
    variables = jax.device_get(parts.init()().eval_variables)
    images, labels = parts.eval_images.cached
    pixels = (images.astype(np.float32) / 255 - 0.305) / 0.376  # the config's mean and deviation
    logits, _ = parts.model.apply(variables, pixels)
    shifted = np.exp(np.asarray(logits, np.float64))
    probabilities = shifted / shifted.sum(axis=1, keepdims=True)
    correct = accuracy_score(labels, logits.argmax(axis=1), normalize=False)
    return variables, correct, log_loss(labels, probabilities)


@pytest.mark.parametrize(("devices", "batch_size"), [(1, 359), (1, 50), (3, 48), (8, 64), (8, 400)])
def test_counts_are_the_same_on_any_number_of_devices(load_config, expected, devices, batch_size):
    variables, correct, loss = expected
    parts = build(load_config, devices, batch_size)
    got = evaluate(parts.eval_step(), variables, parts.eval_batches())
    assert (got["correct"], got["count"]) == (correct, 359)
    assert got["accuracy"] == correct / 359
    np.testing.assert_allclose(got["loss"], loss, rtol=1e-5)
