"""The kind "knn" against scikit-learn's classifier."""

import jax
import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from cv_jax.evaluation.kinds import make_evaluator
from cv_jax.evaluation.knn import nearest_neighbours


@pytest.mark.parametrize("temperature", [0.07, None])
@pytest.mark.parametrize("k", [1, 20])
def test_nearest_neighbours(halves, k, temperature):
    train, test = halves
    weights = "uniform" if temperature is None else lambda d: np.exp((1 - d) / temperature)
    reference = KNeighborsClassifier(k, metric="cosine", weights=weights).fit(*train)
    found = nearest_neighbours(train, test, 10, k, temperature)
    assert found["correct"] == (reference.predict(test[0]) == test[1]).sum()
    assert found["accuracy"] == reference.score(*test)
    assert found["count"] == 400


def test_weights_and_ties_of_the_vote():
    """One close and two distant neighbours: the temperature decides between them."""
    angles = np.radians([0, 30, 35, 90])
    features = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    train, query = (features, np.array([2, 1, 1, 0])), features[:1] * 5
    cases = [(3, None, 1), (3, 0.01, 2), (2, None, 1), (4, None, 1), (1, None, 2)]
    for k, temperature, prediction in cases:
        found = nearest_neighbours(train, (query, np.array([prediction])), 3, k, temperature)
        assert found["correct"] == 1, (k, temperature)


def test_the_features_of_the_model_are_scored(build, features_of):
    parts = build("knn(k=5, feature='fc1')", **{"mesh.devices": 4, "eval.batch_size": 100})
    variables = jax.device_get(parts.init()().eval_variables)
    evaluation = parts.evaluations[-1]
    x, y = (
        features_of(parts, variables, images, "fc1")
        for images in (evaluation.train_images, evaluation.images)
    )
    reference = KNeighborsClassifier(5, metric="cosine", weights=lambda d: np.exp(-d / 0.07))
    predictions = reference.fit(x, evaluation.train_images.cached[1]).predict(y)
    found = make_evaluator(parts, evaluation)(variables).metrics
    assert found["count"] == 359
    # Features are float32: rounding may change one prediction.
    assert abs(found["correct"] - (predictions == evaluation.images.cached[1]).sum()) <= 1


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ("knn(k=0)", "knn: k: 0 is not in 1…1438"),
        ("knn(k=11, train_examples=10)", "knn: k: 11 is not in 1…10"),
        ("knn(temperature=0)", "knn: temperature: 0.0 is not positive"),
    ],
)
def test_a_mistake_is_reported_in_one_line(mistake_of, extra, message):
    assert message in mistake_of(extra)
