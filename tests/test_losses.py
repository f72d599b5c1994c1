"""Losses and metric sums, against SciPy and NumPy."""

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from cv_jax import config, losses
from cv_jax.errors import InputError

LOGITS = np.random.default_rng(0).normal(size=(6, 4)) * 3
LABELS = np.array([0, 3, 1, 1, 2, 0])
ONE_HOT = np.eye(4)[LABELS]


def settings(**values):
    c = config.default(model="mlp")
    for name, value in values.items():
        c.loss[name] = value
    return c


def test_softmax_cross_entropy_with_smoothing():
    targets = ONE_HOT * 0.9 + 0.1 / 4
    expected = -(targets * scipy.special.log_softmax(LOGITS, axis=1)).sum(axis=1)
    for labels in (LABELS, ONE_HOT):
        got = losses.loss_function(settings(label_smoothing=0.1))(LOGITS, jnp.asarray(labels))
        np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_sigmoid_cross_entropy_of_soft_labels():
    soft = np.random.default_rng(1).dirichlet(np.ones(4), size=6)
    p = scipy.special.expit(LOGITS)
    expected = -(soft * np.log(p) + (1 - soft) * np.log(1 - p)).sum(axis=1)
    loss = losses.loss_function(settings(name="sigmoid"))
    got = loss(jnp.asarray(LOGITS), jnp.asarray(soft))
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_sums_count_what_the_mask_keeps():
    mask = np.array([1.0, 1, 0, 1, 1, 0])
    loss, right = np.arange(6.0), np.array([True, False, True, True, False, True])
    got = losses.metric_sums(jnp.asarray(loss), jnp.asarray(right), mask)
    assert got["count"] == 4
    assert got["correct"] == 2
    assert got["loss"] == (loss * mask).sum()
    assert got["correct"].dtype == got["count"].dtype == jnp.int32
    assert set(losses.metric_sums(jnp.asarray(loss), None, mask)) == {"loss", "count"}


def test_the_likeliest_of_soft_labels_is_the_right_one():
    task = losses.classification(settings(), None)
    expected = LOGITS.argmax(axis=1) == LABELS
    for labels in (LABELS, ONE_HOT * 0.7 + 0.3 / 4):
        _, right = task.score((jnp.asarray(LOGITS), {}), {"label": jnp.asarray(labels)})
        np.testing.assert_array_equal(right, expected)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"name": "hinge"}, "unknown loss 'hinge'; allowed: softmax, sigmoid, rbf"),
        ({"label_smoothing": 1.5}, "is not in 0…1"),
    ],
)
def test_mistakes(values, said):
    with pytest.raises(InputError, match=said):
        losses.loss_function(settings(**values))
