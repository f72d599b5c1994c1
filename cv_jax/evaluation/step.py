"""Steps on a batch of an evaluation: predictions, probabilities, and features."""

from collections import OrderedDict
from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp
import ml_collections

from cv_jax import tasks
from cv_jax.augment.batch import normalise
from cv_jax.random_streams import stream_key
from cv_jax.tasks import losses
from cv_jax.tasks.classification import class_answers


def make_eval_step(
    config: ml_collections.ConfigDict, model: nn.Module, average: str = "probabilities"
) -> Callable:
    """`(variables, batch) → answers`, pure: what the metrics need of each row, as arrays [B].

    Answers are `position` and `loss`, and of a task with classes also `label`, `prediction`,
    `rank` (of the label among the scores, 0 if it is the answer), `confidence` (probability of the
    prediction), `nll` (cross-entropy without label smoothing) and `brier` (sum of the squared
    differences between probabilities and truth).

    The image of a batch is uint8 [B, H, W, C], or views of it: a tuple of [B, V, H, W, C], one for
    each size. The answer is then that of the averaged views, the mean of their probabilities or of
    their scores as `average` says. What is drawn for an example (MAE's removed patches) is the same
    in every evaluation.
    """
    task, forward = tasks.make_task(config, model), _make_forward(config, model, average)

    def eval_step(variables, batch):
        output, batch = forward(variables, batch)
        answers = {"position": batch["position"], "loss": task.score(output, batch)[0]}
        if task.class_scores is not None:
            scores = task.class_scores(output)
            answers.update(class_answers(config, scores, batch["label"]))
        return answers

    return eval_step


def make_classifier(
    config: ml_collections.ConfigDict, model: nn.Module, average: str = "probabilities"
) -> Callable:
    """`(variables, batch) → probabilities` of the classes, float32 [B, K], pure; K may exceed the
    number of classes where the task tells more apart. For the batch see `make_eval_step`."""
    task, forward = tasks.make_task(config, model), _make_forward(config, model, average)

    def classify(variables, batch):
        output, _ = forward(variables, batch)
        return losses.probabilities(config)(task.class_scores(output).astype(jnp.float32))

    return classify


def _make_forward(config, model, average):
    """`(variables, batch) → (what the model returns, the batch that it saw)`, views averaged."""
    task = tasks.make_task(config, model)

    def once(variables, batch, images):
        batch = {**batch, "image": normalise(config, images.astype(jnp.float32))}
        rngs = {"mask": stream_key(config.seed, "eval_mask", 0)}
        return model.apply(variables, *task.inputs(batch, rngs), train=False), batch

    def forward(variables, batch):
        if not isinstance(batch["image"], tuple):
            return once(variables, batch, batch["image"])
        scores = []
        for views in batch["image"]:
            output, _ = once(variables, batch, views.reshape(-1, *views.shape[2:]))
            scores.append(task.class_scores(output).reshape(*views.shape[:2], -1))
        averaged = losses.average_views(config, jnp.concatenate(scores, axis=1), average)
        return (averaged, {}), batch

    return forward


def make_features(config: ml_collections.ConfigDict, model: nn.Module) -> Callable:
    """`(variables, batch) → features`, float32 [B, D] by name in forward order, pure.

    One of more than two axes is averaged over all but the first and the last. Those of a masked
    autoencoder are its encoder's, which then sees all patches.
    """
    task = tasks.make_task(config, model)

    def features(variables, batch):
        batch = {**batch, "image": normalise(config, batch["image"].astype(jnp.float32))}
        if task.encoder is None:
            _, found = model.apply(variables, *task.inputs(batch, {}), train=False)
        else:
            _, found = task.encoder.apply(variables, batch["image"], train=False)
        return OrderedDict(
            (name, x.astype(jnp.float32).mean(axis=tuple(range(1, x.ndim - 1))))
            for name, x in found.items()
            if x.ndim > 1
        )

    return features
