"""The kinds of evaluation by name. A new kind is one file and one line in `KINDS`."""

from collections.abc import Callable
from typing import Any

from cv_jax.evaluation import classification, knn, logistic_regression, reconstruction, sequence
from cv_jax.evaluation.kind import COMMON, Evaluation, Experiment, Kind, Option, Scores
from cv_jax.tasks import Task

# The first kind that suits the task of a run is the run's own evaluation.
KINDS: dict[str, Kind] = {
    "classification": classification.KIND,
    "sequence": sequence.KIND,
    "reconstruction": reconstruction.KIND,
    "knn": knn.KIND,
    "logistic_regression": logistic_regression.KIND,
}


def own_kind(task: Task) -> str:
    """The kind of the own evaluation of runs with this task."""
    return next(name for name, kind in KINDS.items() if kind.suits(task))


def options_of(kind: str) -> dict[str, Option]:
    """All options of a kind by name."""
    return {**COMMON, **KINDS[kind].options}


def make_evaluator(experiment: Experiment, evaluation: Evaluation) -> Callable[[Any], Scores]:
    """Return the function `variables → scores` of one evaluation. It compiles once."""
    return KINDS[evaluation.kind].make(experiment, evaluation)
