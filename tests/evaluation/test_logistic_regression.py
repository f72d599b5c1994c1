"""The kind "logistic_regression" against scikit-learn's classifier."""

import jax
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from cv_jax.evaluation.kinds import make_evaluator
from cv_jax.evaluation.logistic_regression import STRENGTHS, logistic_regression


def test_a_given_strength(halves):
    train, test = halves
    mean, deviation = train[0].mean(axis=0, dtype=float), train[0].std(axis=0, dtype=float)
    scaled = [((x - mean) / deviation, y) for x, y in halves]
    reference = LogisticRegression(C=0.1, max_iter=5000).fit(*scaled[0])
    found = logistic_regression(train, test, 0.1, True)
    assert abs(found["correct"] - (reference.predict(scaled[1][0]) == test[1]).sum()) <= 1
    assert found["C"] == 0.1
    plain = LogisticRegression(C=1e-4, max_iter=5000).fit(train[0].astype(float), train[1])
    found = logistic_regression(train, test, 1e-4, False)
    assert abs(found["correct"] - (plain.predict(test[0]) == test[1]).sum()) <= 1


def test_the_strength_is_chosen_on_held_out_examples(halves):
    train, test = halves
    held_out = np.arange(600) % 10 == 0
    mean, deviation = (f(train[0][~held_out].astype(float), axis=0) for f in (np.mean, np.std))
    x = (train[0] - mean) / deviation
    correct = []
    for strength in STRENGTHS:
        reference = LogisticRegression(C=strength, max_iter=5000)
        reference.fit(x[~held_out], train[1][~held_out])
        correct.append((reference.predict(x[held_out]) == train[1][held_out]).sum())
    best = [c for c, n in zip(STRENGTHS, correct, strict=True) if n == max(correct)]
    found = logistic_regression(train, test, None, True)
    assert found["C"] in best
    assert found["C"] == min(best)
    assert found == logistic_regression(train, test, found["C"], True)


def test_the_features_of_the_model_are_scored(build, features_of):
    extra = "logistic_regression(C=1.0, train_examples=300)"
    parts = build(extra, **{"mesh.devices": 4, "eval.batch_size": 100})
    variables = jax.device_get(parts.init()().eval_variables)
    evaluation = parts.evaluations[-1]
    x, y = (
        features_of(parts, variables, images, "pre_logits")
        for images in (evaluation.train_images, evaluation.images)
    )
    mean, deviation = x.mean(axis=0), x.std(axis=0)
    deviation[deviation == 0] = 1
    reference = LogisticRegression(C=1.0, max_iter=5000)
    reference.fit((x - mean) / deviation, evaluation.train_images.cached[1])
    predictions = reference.predict((y - mean) / deviation)
    found = make_evaluator(parts, evaluation)(variables).metrics
    assert found["count"] == 359
    # Features are float32: rounding may change one prediction.
    assert abs(found["correct"] - (predictions == evaluation.images.cached[1]).sum()) <= 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("C=-1", "logistic_regression: C: -1.0 is not positive"),
        ("train_examples=1", "train_examples: 1 examples have fewer than two classes"),
        ("C=1.0, train_examples=1", "train_examples: 1 examples have fewer than two classes"),
        # Without C, every tenth example is held out: one of two examples remains.
        ("train_examples=2", "train_examples: 2 examples have fewer than two classes"),
    ],
)
def test_a_mistake_is_reported_in_one_line(mistake_of, options, message):
    assert message in mistake_of(f"logistic_regression({options})")
