"""The kind "reconstruction": mean loss of a model without classes, such as a masked autoencoder."""

from collections.abc import Callable
from typing import Any

from cv_jax.evaluation import checks, metrics
from cv_jax.evaluation.kind import Evaluation, Experiment, Kind, Request, Scores
from cv_jax.evaluation.run import predict
from cv_jax.evaluation.step import make_eval_step
from cv_jax.tasks import Task


def _suits(task: Task) -> bool:
    return task.class_scores is None and task.written is None


def _check(request: Request) -> tuple[dict[str, Any], None]:
    checks.require_same_classes(request)
    checks.refuse_views(request)
    if not checks.has_stated_size(request):
        checks.trace(request, make_eval_step(request.config, request.model))
    return request.options, None


def _make(experiment: Experiment, evaluation: Evaluation) -> Callable[[Any], Scores]:
    step = experiment.evaluation_step(make_eval_step)

    def score(variables):
        loss = predict(experiment, step, variables, evaluation.images, evaluation.views)["loss"]
        return Scores({"loss": metrics.mean(loss), "count": len(loss)}, {})

    return score


KIND = Kind({}, _suits, _check, _make)
