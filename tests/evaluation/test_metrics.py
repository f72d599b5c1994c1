"""Every metric against scikit-learn, on random predictions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from sklearn import metrics as sk

from cv_jax import config as configs
from cv_jax.evaluation import metrics
from cv_jax.tasks import losses
from cv_jax.tasks.classification import class_predictions


def predictions_of(scores, labels, loss="softmax"):
    config = configs.default(model="mlp")
    config.loss.name = loss
    found = class_predictions(config, jnp.asarray(scores), jnp.asarray(labels))
    found = {name: np.asarray(values) for name, values in found.items()}
    return {**found, "loss": found["nll"], "position": np.arange(len(labels))}


@pytest.fixture(scope="module", params=[(500, 7), (2000, 23)], ids=str)
def case(request):
    """Scores [N, K] that correlate with the labels [N]; one class does not occur."""
    count, classes = request.param
    rng = np.random.default_rng(count)
    labels = rng.integers(0, classes - 1, count).astype(np.int32)
    scores = rng.normal(size=(count, classes)).astype(np.float32)
    scores[np.arange(count), labels] += 1.5
    return scores, labels, predictions_of(scores, labels), classes


def test_summary(case):
    scores, labels, predictions, classes = case
    found = metrics.summary(predictions, classes)
    p = scipy.special.softmax(scores.astype(np.float64), axis=1)
    prediction, every = scores.argmax(axis=1), np.arange(classes)
    assert found["correct"] == sk.accuracy_score(labels, prediction, normalize=False)
    assert found["accuracy"] == sk.accuracy_score(labels, prediction)
    assert found["top5_accuracy"] == sk.top_k_accuracy_score(labels, scores, k=5, labels=every)
    assert found["count"] == len(labels)
    assert found["class_accuracy"] == pytest.approx(
        sk.recall_score(labels, prediction, average="macro", labels=np.unique(labels)), rel=1e-12
    )
    np.testing.assert_allclose(found["nll"], sk.log_loss(labels, p, labels=every), rtol=1e-6)
    brier = np.square(p - np.eye(classes)[labels]).sum(axis=1).mean()
    np.testing.assert_allclose(found["brier"], brier, rtol=1e-5)


def test_confusion_matrix_and_accuracy_of_each_class(case):
    scores, labels, predictions, classes = case
    expected = sk.confusion_matrix(labels, scores.argmax(axis=1), labels=np.arange(classes))
    np.testing.assert_array_equal(metrics.confusion_matrix(predictions, classes), expected)
    rows = metrics.per_class(predictions, classes)
    report = sk.classification_report(
        labels, scores.argmax(axis=1), labels=np.arange(classes), output_dict=True, zero_division=0
    )
    for k, row in enumerate(rows):
        assert (row["class"], row["count"]) == (k, report[str(k)]["support"])
        assert row["correct"] == expected[k, k]
        if row["count"]:
            assert row["accuracy"] == pytest.approx(report[str(k)]["recall"], rel=1e-12)
    assert (rows[-1]["count"], rows[-1]["accuracy"]) == (0, None)


def test_calibration(case):
    """Against bins that are filled one example at a time."""
    scores, labels, predictions, classes = case
    p = scipy.special.softmax(scores.astype(np.float64), axis=1)
    bins = {}
    for row, label in zip(p, labels, strict=True):
        place = next(m for m in range(15) if row.max() <= (m + 1) / 15)
        bins.setdefault(place, []).append((row.argmax() == label, row.max()))
    rows = metrics.reliability(predictions)
    assert [row["count"] for row in rows] == [len(bins.get(m, [])) for m in range(15)]
    error = 0
    for m, members in bins.items():
        right, confidence = np.mean(members, axis=0)
        assert rows[m]["accuracy"] == pytest.approx(right)
        assert rows[m]["confidence"] == pytest.approx(confidence, rel=1e-6)
        assert m / 15 <= confidence <= (m + 1) / 15
        error += abs(right - confidence) * len(members) / len(labels)
    assert metrics.summary(predictions, classes)["ece"] == pytest.approx(error, rel=1e-5)
    empty = [row for row in rows if not row["count"]]
    assert all(row["accuracy"] is row["confidence"] is None for row in empty)


def test_a_calibrated_model_has_a_small_calibration_error():
    """Labels are drawn from the predicted probabilities: the error is sampling noise."""
    rng = np.random.default_rng(0)
    scores = rng.normal(scale=2, size=(100_000, 4)).astype(np.float32)
    labels = (scores + rng.gumbel(size=scores.shape)).argmax(axis=1).astype(np.int32)
    assert metrics.summary(predictions_of(scores, labels), 4)["ece"] < 0.01
    assert metrics.summary(predictions_of(scores * 3, labels), 4)["ece"] > 0.1


def test_ranks_of_equal_scores_and_of_nan():
    nan = np.nan
    scores = np.array([[1, 1, 1], [1, 1, 1], [0, 2, 2], [nan, 0, 1], [nan, 0, 1], [0, 1, nan]])
    labels = np.array([0, 2, 2, 0, 2, 1], np.int32)
    predictions = predictions_of(scores.astype(np.float32), labels)
    # The first of equal scores is predicted; with a `nan` score, no prediction is correct.
    np.testing.assert_array_equal(predictions["rank"][:3], [0, 2, 1])
    np.testing.assert_array_equal(predictions["prediction"][:3], [0, 0, 1])
    assert (predictions["rank"][3:] > 0).all()


def test_a_sigmoid_gives_independent_probabilities():
    rng = np.random.default_rng(3)
    scores, labels = rng.normal(size=(50, 4)).astype(np.float32), rng.integers(0, 4, 50)
    predictions = predictions_of(scores, labels.astype(np.int32), "sigmoid")
    p, truth = scipy.special.expit(scores.astype(np.float64)), np.eye(4)[labels]
    nll = -(truth * np.log(p) + (1 - truth) * np.log1p(-p)).sum(axis=1)
    np.testing.assert_allclose(predictions["nll"], nll, rtol=1e-5)
    np.testing.assert_allclose(predictions["confidence"], p.max(axis=1), rtol=1e-5)


@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
def test_views_are_averaged_as_probabilities_or_logits(loss):
    config = configs.default(model="mlp")
    config.loss.name = loss
    scores = np.random.default_rng(4).normal(scale=3, size=(6, 5, 4)).astype(np.float32)
    to_p = {"softmax": lambda x: scipy.special.softmax(x, axis=-1), "sigmoid": scipy.special.expit}
    averages = {}
    for how in ("probabilities", "logits"):
        average = jax.jit(lambda x, how=how: losses.average_views(config, x, how))
        averages[how] = np.asarray(average(scores), np.float64)
    expected = to_p[loss](scores.astype(np.float64)).mean(axis=1)
    np.testing.assert_allclose(to_p[loss](averages["probabilities"]), expected, rtol=1e-5)
    np.testing.assert_allclose(averages["logits"], scores.mean(axis=1), rtol=1e-5, atol=1e-6)
    # With weights, also 0.
    weights = np.float32([0.5, 0.25, 0.25, 0, 0])
    average = jax.jit(lambda x, w: losses.average_views(config, x, "probabilities", w))
    found = np.asarray(average(scores, np.tile(weights, (6, 1))), np.float64)
    expected = np.einsum("bvk,v->bk", to_p[loss](scores.astype(np.float64)), weights)
    np.testing.assert_allclose(to_p[loss](found), expected, rtol=1e-5)
