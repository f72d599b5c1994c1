"""Functions of variables and one batch that are jitted for an evaluation.

In a batch of an evaluation, `image` is uint8 [B, H, W, C], or with test-time views a tuple of
[B, V, H, W, C], one per size; without images, `sequence` is int32 [B, S]. `view_weights`, float32
[B, views of all sizes], are present if views have different weights. The random masks of an example
are the same in every evaluation.
"""

from collections import OrderedDict
from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp
import ml_collections

from cv_jax import tasks
from cv_jax.augment.batch import normalise_batch
from cv_jax.augment.views import View, apply_views, view_weights
from cv_jax.models.precision import as_read
from cv_jax.random_streams import stream_key
from cv_jax.tasks import losses
from cv_jax.tasks.classification import class_predictions


def make_eval_step(
    config: ml_collections.ConfigDict,
    model: nn.Module,
    average: str = "probabilities",
    views: tuple[View, ...] = (),
) -> Callable:
    """Return the pure function `(variables, batch) → predictions`, arrays [B].

    Predictions are `position` and `loss`. A task with classes adds `label`, `prediction`, `rank`
    (rank of the label among the scores; 0 if it is predicted), `confidence` (probability of the
    prediction), `nll` (cross-entropy without label smoothing) and `brier` (sum of the squared
    differences between probabilities and one-hot label).

    Args:
      config: config of the run.
      model: the evaluated model.
      average: what is averaged over test-time views, "probabilities" or "logits".
      views: test-time views that are computed on the device, of images without views.
    """
    task, forward = tasks.make_task(config, model), make_forward(config, model, average, views)

    def eval_step(variables, batch):
        output, batch = forward(variables, batch)
        predictions = {"position": batch["position"], "loss": task.score(output, batch)[0]}
        if task.class_scores is not None:
            scores = task.class_scores(output)
            predictions.update(class_predictions(config, scores, batch["label"]))
        return predictions

    return eval_step


def make_classifier(
    config: ml_collections.ConfigDict, model: nn.Module, average: str = "probabilities"
) -> Callable:
    """Return the pure function `(variables, batch) → class probabilities`, float32 [B, K].

    K may exceed the number of classes of the dataset: the other columns are, for example, special
    tokens. For `average` see `make_eval_step`.
    """
    task, forward = tasks.make_task(config, model), make_forward(config, model, average)

    def classify(variables, batch):
        output, _ = forward(variables, batch)
        return losses.probabilities(config)(task.class_scores(output).astype(jnp.float32))

    return classify


def make_forward(
    config: ml_collections.ConfigDict,
    model: nn.Module,
    average: str = "probabilities",
    views: tuple[View, ...] = (),
) -> Callable:
    """Return the pure function `(variables, batch) → (output of the model, normalised batch)`.

    With test-time views, the output is `(averaged class scores [B, K], {})`. For `average` and
    `views` see `make_eval_step`.
    """
    task = tasks.make_task(config, model)

    def once(variables, batch):
        batch = normalise_batch(config, batch)
        rngs = {"mask": stream_key(config.seed, "eval_mask", 0)}
        variables = as_read(model, variables)
        return model.apply(variables, *task.inputs(batch, rngs), train=False), batch

    def with_views(batch):
        image, weights = batch["image"], view_weights(views, batch["image"].shape[1:])
        if weights is not None:
            weights = jnp.broadcast_to(weights, (len(image), len(weights)))
        return {**batch, "image": apply_views(views, image), "view_weights": weights}

    def forward(variables, batch):
        if views:
            batch = with_views(batch)
        if not isinstance(batch.get("image"), tuple):
            return once(variables, batch)
        scores = []
        for group in batch["image"]:
            output, _ = once(variables, {**batch, "image": group.reshape(-1, *group.shape[2:])})
            scores.append(task.class_scores(output).reshape(*group.shape[:2], -1))
        scores, weights = jnp.concatenate(scores, axis=1), batch.get("view_weights")
        averaged = losses.average_views(config, scores, average, weights)
        return (averaged, {}), batch

    return forward


def make_features(config: ml_collections.ConfigDict, model: nn.Module) -> Callable:
    """Return the pure function `(variables, batch) → features`, float32 [B, D] by name.

    Names are in the order of the forward pass. Features with more than two axes are averaged over
    all axes but the first and the last. The features of a masked autoencoder are those of its
    encoder on all patches.
    """
    task = tasks.make_task(config, model)

    def features(variables, batch):
        batch = normalise_batch(config, batch)
        variables = as_read(model, variables)
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


def make_feature_step(config: ml_collections.ConfigDict, model: nn.Module, name: str) -> Callable:
    """Return the pure function `(variables, batch) → {position, label, feature float32 [B, D]}`.

    Args:
      config: config of the run.
      model: the evaluated model.
      name: name of the feature; see `make_features`.
    """
    features = make_features(config, model)

    def feature_step(variables, batch):
        known = {key: batch[key] for key in ("position", "label")}
        return {**known, "feature": features(variables, batch)[name]}

    return feature_step
