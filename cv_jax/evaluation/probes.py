"""Probes: how well simple classifiers do on a net's features, which are not trained further.

Features are float32 [N, D], labels int [N]; scikit-learn does the work, on the host.
"""

from typing import Any

import numpy as np

STRENGTHS = tuple(10.0**power for power in range(-4, 5))


def nearest_neighbours(
    train: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
    num_classes: int,
    k: int,
    temperature: float | None,
) -> dict[str, Any]:
    """Votes of the `k` training examples of largest cosine similarity (Wu et al., Unsupervised
    feature learning via non-parametric instance discrimination, 2018, section 3.4).

    Args:
      train: features and labels to vote.
      test: features and labels to score.
      num_classes: classes.
      k: neighbours.
      temperature: a neighbour of similarity s has exp(s / temperature) votes; with none, one.

    Returns:
      `accuracy`, `correct` and `count`. Of classes with equal votes the first is the answer.
    """
    from sklearn.neighbors import NearestNeighbors

    search = NearestNeighbors(n_neighbors=k, metric="cosine", algorithm="brute").fit(train[0])
    distance, index = search.kneighbors(test[0])
    # Similarity 1 - distance; the constant factor exp(1 / temperature) of all votes is left out.
    weight = np.ones_like(distance) if temperature is None else np.exp(-distance / temperature)
    votes = np.zeros((len(index), num_classes))
    np.add.at(votes, (np.arange(len(index))[:, None], train[1][index]), weight)
    return _score(votes.argmax(axis=1), test[1])


def logistic_regression(
    train: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
    strength: float | None,
    standardise: bool,
) -> dict[str, Any]:
    """Multinomial logistic regression with an L2 penalty, by L-BFGS until it has converged.

    Args:
      train: features and labels to learn.
      test: features and labels to score.
      strength: scikit-learn's C, the inverse of the penalty; none chooses from `STRENGTHS` the one
        that scores best on every tenth training example after learning the others, the smallest of
        equals, and then learns from all.
      standardise: shift and scale each feature to mean 0 and variance 1 on the training examples.

    Returns:
      `accuracy`, `correct` and `count`, and the `C` that was used.
    """
    if strength is None:
        held = np.arange(len(train[1])) % 10 == 0
        rest, apart = [tuple(x[part] for x in train) for part in (~held, held)]
        right = [_score(_fit(rest, c, standardise, apart[0]), apart[1]) for c in STRENGTHS]
        strength = STRENGTHS[int(np.argmax([score["correct"] for score in right]))]
    return {**_score(_fit(train, strength, standardise, test[0]), test[1]), "C": strength}


def _fit(train, strength, standardise, features):
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    learner = LogisticRegression(C=strength, max_iter=10_000)
    steps = [StandardScaler(), learner] if standardise else [learner]
    # Doubles: the optimiser's last digits then do not depend on the order of float32 sums.
    fitted = make_pipeline(*steps).fit(train[0].astype(np.float64), train[1])
    return fitted.predict(features.astype(np.float64))


def _score(prediction, label):
    correct = int((prediction == label).sum())
    return {"accuracy": correct / len(label), "correct": correct, "count": len(label)}
