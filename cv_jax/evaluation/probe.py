"""Probes: simple classifiers on the features of a model, which is not trained further.

Options of every probe: `feature` names the features; `train_split` and `train_examples` choose the
training examples of the probe. Features are float32 [N, D], labels int [N]. scikit-learn trains the
probe on the host.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from cv_jax.data.source import Source
from cv_jax.data.splits import open_split
from cv_jax.data.subsets import Subset
from cv_jax.errors import InputError, did_you_mean
from cv_jax.evaluation import checks
from cv_jax.evaluation.kind import Evaluation, Experiment, Option, Request
from cv_jax.evaluation.run import predict
from cv_jax.evaluation.step import make_feature_step, make_features
from cv_jax.tasks import Task

Labelled = tuple[np.ndarray, np.ndarray]  # features and labels

OPTIONS = {
    "feature": Option(str, "pre_logits"),
    "train_split": Option(str | None, None),
    "train_examples": Option(int | None, None),
}


def suits(task: Task) -> bool:
    """Every model has features; a probe needs one class for each image."""
    return task.written is None


def check(request: Request) -> tuple[dict[str, Any], Source]:
    """Check the options of a probe.

    Returns:
      The resolved options and the probe's training split.

    Raises:
      InputError: no such feature, or an unusable training split.
    """
    checks.refuse_views(request)
    known = checks.trace(request, make_features(request.config, request.model))
    feature = request.options["feature"]
    if feature not in known:
        raise InputError(
            f"{request.field('feature')}: {feature!r} is not one of {', '.join(known)}"
            f"{did_you_mean(feature, known)}"
        )
    options, source = _open_train_split(request)
    return options, _draw(request, source)


def make_data(
    experiment: Experiment, evaluation: Evaluation
) -> Callable[[Any], tuple[Labelled, Labelled]]:
    """Return the function `variables → (features and labels to train on, the same to score)`."""
    step = experiment.evaluation_step(make_feature_step, evaluation.options["feature"])

    def data(variables):
        def labelled(images):
            found = predict(experiment, step, variables, images, evaluation.views)
            return found["feature"], found["label"]

        return labelled(evaluation.train_images), labelled(evaluation.images)

    return data


def accuracy(prediction: np.ndarray, label: np.ndarray) -> dict[str, Any]:
    """`accuracy`, `correct` and `count` of predicted classes [N] and labels [N]."""
    correct = int((prediction == label).sum())
    return {"accuracy": correct / len(label), "correct": correct, "count": len(label)}


def _open_train_split(request: Request) -> tuple[dict[str, Any], Source]:
    """The options with `train_split` resolved, and this split; by default the run's."""
    config, options, field = request.config, request.options, request.field
    split = options["train_split"]
    if split is None and options["dataset"] == config.data.name:
        split, source = config.data.train_split, request.train_source
    else:
        split = split or "train"
        source = open_split(config, options["dataset"], split, field("train_split"))
    if split == options["split"]:
        raise InputError(f"{field('train_split')}: {split!r} is the split that is scored")
    if source.classes != request.source.classes:
        raise InputError(
            f"{field('train_split')}: the classes of {split!r} differ from those of "
            f"{options['split']!r}"
        )
    return {**options, "train_split": split}, source


def _draw(request: Request, source: Source) -> Source:
    """`train_examples` examples of the split, drawn with the seed of the run; by default all."""
    count = request.options["train_examples"]
    if count is None:
        return source
    if not 1 <= count <= len(source):
        raise InputError(f"{request.field('train_examples')}: {count} is not in 1…{len(source)}")
    indices = np.random.default_rng(request.config.seed).choice(len(source), count, replace=False)
    return dataclasses.replace(source, records=Subset(source.records, np.sort(indices)))
