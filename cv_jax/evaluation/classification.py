"""The kind "classification": metrics of the predicted classes.

Option `average`: with test-time views, the mean of their "probabilities" or of their "logits".
"""

from collections.abc import Callable
from typing import Any

from cv_jax import tasks
from cv_jax.augment import views
from cv_jax.config.fields import FIELDS
from cv_jax.errors import InputError, did_you_mean
from cv_jax.evaluation import checks, metrics
from cv_jax.evaluation.kind import Evaluation, Experiment, Kind, Option, Request, Scores
from cv_jax.evaluation.run import predict
from cv_jax.evaluation.step import make_eval_step
from cv_jax.tasks import Task

_AVERAGES = FIELDS["eval.average"].allowed


def _suits(task: Task) -> bool:
    return task.class_scores is not None


def _check(request: Request) -> tuple[dict[str, Any], None]:
    config, field = request.config, request.field
    checks.require_same_classes(request)
    if tasks.task_name(config) != "classification":
        checks.refuse_views(request)
    average = request.options["average"]
    average = config.eval.average if average is None else average
    if average not in _AVERAGES:
        hint = did_you_mean(average, _AVERAGES)
        raise InputError(
            f"{field('average')}: {average!r} is not one of {', '.join(_AVERAGES)}{hint}"
        )
    if request.operations.test and config.loss.name == "rbf" and average != "logits":
        raise InputError(
            f"{field('average')}: scores of config.loss.name=rbf are averaged as logits only"
        )
    if not checks.has_stated_size(request):
        checks.trace(request, make_eval_step(config, request.model, average))
    return {**request.options, "average": average}, None


def _make(experiment: Experiment, evaluation: Evaluation) -> Callable[[Any], Scores]:
    on_host, on_device = views.split(evaluation.views)
    average = evaluation.options["average"]
    step = experiment.evaluation_step(make_eval_step, average, on_device)
    num_classes = evaluation.num_classes

    def score(variables):
        found = predict(experiment, step, variables, evaluation.images, on_host)
        details = metrics.details(found, num_classes)
        return Scores(metrics.summary(found, num_classes), details, found)

    return score


KIND = Kind({"average": Option(str | None, None)}, _suits, _check, _make)
