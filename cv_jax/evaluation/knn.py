"""The kind "knn": accuracy of a vote among the nearest training examples.

Options besides those of `probe.py`: `k`, the number of neighbours, and `temperature`; see
`nearest_neighbours`.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from cv_jax.data.source import Source
from cv_jax.errors import InputError
from cv_jax.evaluation import checks, probe
from cv_jax.evaluation.kind import Evaluation, Experiment, Kind, Option, Request, Scores


def nearest_neighbours(
    train: probe.Labelled,
    test: probe.Labelled,
    num_classes: int,
    k: int,
    temperature: float | None,
) -> dict[str, Any]:
    """Vote among the `k` training examples of largest cosine similarity (Wu et al., Unsupervised
    feature learning via non-parametric instance discrimination, 2018, section 3.4).

    Args:
      train: features and labels that vote.
      test: features and labels to score.
      num_classes: number of classes.
      k: number of neighbours.
      temperature: a neighbour of similarity s has exp(s / temperature) votes; `None`: one vote.

    Returns:
      `accuracy`, `correct` and `count`. The first of the classes with equal votes is predicted.
    """
    from sklearn.neighbors import NearestNeighbors

    search = NearestNeighbors(n_neighbors=k, metric="cosine", algorithm="brute").fit(train[0])
    distance, index = search.kneighbors(test[0])
    # Similarity is 1 - distance; the factor exp(1 / temperature) of all votes is omitted.
    weight = np.ones_like(distance) if temperature is None else np.exp(-distance / temperature)
    votes = np.zeros((len(index), num_classes))
    np.add.at(votes, (np.arange(len(index))[:, None], train[1][index]), weight)
    return probe.accuracy(votes.argmax(axis=1), test[1])


def _check(request: Request) -> tuple[dict[str, Any], Source]:
    checks.require_positive(request, "temperature")
    options, source = probe.check(request)
    if not 1 <= options["k"] <= len(source):
        raise InputError(f"{request.field('k')}: {options['k']} is not in 1…{len(source)}")
    return options, source


def _make(experiment: Experiment, evaluation: Evaluation) -> Callable[[Any], Scores]:
    data, options = probe.make_data(experiment, evaluation), evaluation.options
    num_classes, k, temperature = evaluation.num_classes, options["k"], options["temperature"]

    def score(variables):
        train, test = data(variables)
        return Scores(nearest_neighbours(train, test, num_classes, k, temperature), {})

    return score


KIND = Kind(
    {**probe.OPTIONS, "k": Option(int, 20), "temperature": Option(float | None, 0.07)},
    probe.suits,
    _check,
    _make,
)
