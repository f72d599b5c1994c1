"""Probes against scikit-learn's own classifiers."""

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from cv_jax.evaluation import probes


@pytest.fixture(scope="module")
def halves():
    x, y = load_digits(return_X_y=True)
    x = (x + np.random.default_rng(0).normal(scale=4, size=x.shape)).astype(np.float32)
    return (x[:600], y[:600]), (x[600:1000], y[600:1000])


@pytest.mark.parametrize("temperature", [0.07, None])
@pytest.mark.parametrize("k", [1, 20])
def test_nearest_neighbours(halves, k, temperature):
    train, test = halves
    weights = "uniform" if temperature is None else lambda d: np.exp((1 - d) / temperature)
    reference = KNeighborsClassifier(k, metric="cosine", weights=weights).fit(*train)
    found = probes.nearest_neighbours(train, test, 10, k, temperature)
    assert found["correct"] == (reference.predict(test[0]) == test[1]).sum()
    assert found["accuracy"] == reference.score(*test)
    assert found["count"] == 400


def test_weights_and_ties_of_the_vote():
    """Votes written out: similarity decides between one close and two far neighbours."""
    angles = np.radians([0, 30, 35, 90])
    features = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    train, query = (features, np.array([2, 1, 1, 0])), features[:1] * 5
    cases = [(3, None, 1), (3, 0.01, 2), (2, None, 1), (4, None, 1), (1, None, 2)]
    for k, temperature, answer in cases:
        found = probes.nearest_neighbours(train, (query, np.array([answer])), 3, k, temperature)
        assert found["correct"] == 1, (k, temperature)


def test_logistic_regression_of_a_given_strength(halves):
    train, test = halves
    mean, deviation = train[0].mean(axis=0, dtype=float), train[0].std(axis=0, dtype=float)
    scaled = [((x - mean) / deviation, y) for x, y in halves]
    reference = LogisticRegression(C=0.1, max_iter=5000).fit(*scaled[0])
    found = probes.logistic_regression(train, test, 0.1, True)
    assert abs(found["correct"] - (reference.predict(scaled[1][0]) == test[1]).sum()) <= 1
    assert found["C"] == 0.1
    plain = LogisticRegression(C=1e-4, max_iter=5000).fit(train[0].astype(float), train[1])
    found = probes.logistic_regression(train, test, 1e-4, False)
    assert abs(found["correct"] - (plain.predict(test[0]) == test[1]).sum()) <= 1


def test_the_strength_is_chosen_on_examples_held_out(halves):
    train, test = halves
    held = np.arange(600) % 10 == 0
    mean, deviation = (f(train[0][~held].astype(float), axis=0) for f in (np.mean, np.std))
    x = (train[0] - mean) / deviation
    right = []
    for strength in probes.STRENGTHS:
        reference = LogisticRegression(C=strength, max_iter=5000).fit(x[~held], train[1][~held])
        right.append((reference.predict(x[held]) == train[1][held]).sum())
    found = probes.logistic_regression(train, test, None, True)
    assert found["C"] in [
        c for c, r in zip(probes.STRENGTHS, right, strict=True) if r == max(right)
    ]
    assert found["C"] == min(
        c for c, r in zip(probes.STRENGTHS, right, strict=True) if r == max(right)
    )
    assert found == probes.logistic_regression(train, test, found["C"], True)
