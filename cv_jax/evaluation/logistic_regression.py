"""The kind "logistic_regression": accuracy of a linear classifier on features.

Options besides those of `probe.py`: `C` and `standardise`; see `logistic_regression`.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from cv_jax.data.source import Source
from cv_jax.errors import InputError
from cv_jax.evaluation import checks, probe
from cv_jax.evaluation.kind import Evaluation, Experiment, Kind, Option, Request, Scores

STRENGTHS = tuple(10.0**power for power in range(-4, 5))


def logistic_regression(
    train: probe.Labelled, test: probe.Labelled, strength: float | None, standardise: bool
) -> dict[str, Any]:
    """Multinomial logistic regression with an L2 penalty, by L-BFGS until convergence.

    Args:
      train: features and labels to train on.
      test: features and labels to score.
      strength: scikit-learn's C, the inverse of the penalty. `None` chooses from `STRENGTHS` the
        best one on every tenth training example after training on the others, the smallest of
        equally good ones; the final classifier trains on all examples.
      standardise: shift and scale each feature to mean 0 and variance 1 on the training examples.

    Returns:
      `accuracy`, `correct` and `count`, and the used `C`.
    """
    if strength is None:
        strength = _best_strength(train, standardise)
    return {**_score(train, test, strength, standardise), "C": strength}


def _best_strength(train, standardise):
    held_out = _held_out(len(train[1]))
    rest, validation = [tuple(x[part] for x in train) for part in (~held_out, held_out)]
    correct = [_score(rest, validation, c, standardise)["correct"] for c in STRENGTHS]
    return STRENGTHS[int(np.argmax(correct))]


def _held_out(count: int) -> np.ndarray:
    return np.arange(count) % 10 == 0


def _score(train, test, strength, standardise):
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    classifier = LogisticRegression(C=strength, max_iter=10_000)
    steps = [StandardScaler(), classifier] if standardise else [classifier]
    # In float64, the result of the optimiser does not depend on the order of float32 sums.
    fitted = make_pipeline(*steps).fit(train[0].astype(np.float64), train[1])
    return probe.accuracy(fitted.predict(test[0].astype(np.float64)), test[1])


def _check(request: Request) -> tuple[dict[str, Any], Source]:
    checks.require_positive(request, "C")
    options, source = probe.check(request)
    if options["train_examples"] is not None:
        labels = np.array([source.records[i][1] for i in range(len(source))])
        learnt = labels if options["C"] is not None else labels[~_held_out(len(labels))]
        if len(set(learnt.tolist())) < 2:
            raise InputError(
                f"{request.field('train_examples')}: {len(labels)} examples have fewer than two "
                "classes to learn; draw more"
            )
    return options, source


def _make(experiment: Experiment, evaluation: Evaluation) -> Callable[[Any], Scores]:
    data, options = probe.make_data(experiment, evaluation), evaluation.options

    def score(variables):
        train, test = data(variables)
        return Scores(logistic_regression(train, test, options["C"], options["standardise"]), {})

    return score


KIND = Kind(
    {**probe.OPTIONS, "C": Option(float | None, None), "standardise": Option(bool, True)},
    probe.suits,
    _check,
    _make,
)
