"""Losses and sums of metrics, against SciPy and NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from cv_jax import config
from cv_jax.errors import InputError
from cv_jax.tasks import losses
from cv_jax.tasks.classification import classification
from cv_jax.training.objective import metric_sums

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


SOFT = np.random.default_rng(1).dirichlet(np.ones(4), size=6)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal(gamma):
    p = scipy.special.softmax(LOGITS, axis=1)
    loss = losses.loss_function(settings(name="focal", gamma=gamma))
    for labels, targets in ((LABELS, ONE_HOT), (SOFT, SOFT)):
        expected = -(targets * (1 - p) ** gamma * np.log(p)).sum(axis=1)
        got = loss(jnp.asarray(LOGITS), jnp.asarray(labels))
        np.testing.assert_allclose(got, expected, rtol=1e-5)


@pytest.mark.parametrize(("gamma", "alpha"), [(2.0, 0.25), (1.0, None), (0.0, 0.5)])
def test_sigmoid_focal(gamma, alpha):
    # Equation 5 of the paper, for every class separately.
    p = scipy.special.expit(LOGITS)
    p_t = np.where(ONE_HOT == 1, p, 1 - p)
    weight = 1 if alpha is None else np.where(ONE_HOT == 1, alpha, 1 - alpha)
    expected = -(weight * (1 - p_t) ** gamma * np.log(p_t)).sum(axis=1)
    loss = losses.loss_function(settings(name="sigmoid_focal", gamma=gamma, alpha=alpha))
    got = loss(jnp.asarray(LOGITS), jnp.asarray(LABELS))
    np.testing.assert_allclose(got, expected, rtol=1e-5)


@pytest.mark.parametrize("name", ["focal", "sigmoid_focal"])
def test_focal_gradients_are_finite_at_zero_loss(name):
    loss = losses.loss_function(settings(name=name, gamma=0.5))
    logits = jnp.array([[200.0, -200.0, -200.0]])
    gradient = jax.grad(lambda x: loss(x, jnp.array([0])).sum())(logits)
    np.testing.assert_allclose(gradient, 0, atol=1e-3)


@pytest.mark.parametrize("name", ["softmax", "focal"])
def test_z_loss(name):
    plain = losses.loss_function(settings(name=name))(LOGITS, jnp.asarray(LABELS))
    got = losses.loss_function(settings(name=name, z=0.01))(LOGITS, jnp.asarray(LABELS))
    log_z = scipy.special.logsumexp(LOGITS, axis=1)
    np.testing.assert_allclose(got - plain, 0.01 * log_z**2, rtol=1e-4, atol=1e-6)


def test_sums_are_over_the_mask():
    mask = np.array([1.0, 1, 0, 1, 1, 0])
    loss, right = np.arange(6.0), np.array([True, False, True, True, False, True])
    got = metric_sums(jnp.asarray(loss), jnp.asarray(right), mask)
    assert got["count"] == 4
    assert got["correct"] == 2
    assert got["loss"] == (loss * mask).sum()
    assert got["correct"].dtype == got["count"].dtype == jnp.int32
    assert set(metric_sums(jnp.asarray(loss), None, mask)) == {"loss", "count"}


def test_accuracy_with_soft_labels():
    task = classification(settings(), None)
    expected = LOGITS.argmax(axis=1) == LABELS
    for labels in (LABELS, ONE_HOT * 0.7 + 0.3 / 4):
        _, right = task.score((jnp.asarray(LOGITS), {}), {"label": jnp.asarray(labels)})
        np.testing.assert_array_equal(right, expected)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"z": 1e-4, "name": "sigmoid"}, "only softmax and focal have a normaliser"),
    ],
)
def test_mistakes(values, said):
    with pytest.raises(InputError, match=said):
        losses.loss_function(settings(**values))
