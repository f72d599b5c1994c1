"""Image classification: class scores, and the predictions that metrics are computed from."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections

from cv_jax.tasks import distillation
from cv_jax.tasks.losses import by_class, loss_function, probabilities, sigmoid, softmax
from cv_jax.tasks.task import Task


def classification(config: ml_collections.ConfigDict, model: nn.Module) -> Task:
    """Return the task: image → class scores.

    In training, a model may have several heads (DeiT has two). Every head is trained on the labels
    with the mean of their losses; the accuracy is that of the mean scores. If the batch has the
    scores of a teacher, the last head is trained on these scores and the first on the labels; a
    single head is trained on both; see `distillation`.
    """
    loss_of, distilled = loss_function(config), distillation.loss_function(config)

    def score(output, batch):
        logits, labels = output[0], batch["label"]
        heads = logits if isinstance(logits, tuple) else (logits,)
        if "teacher" in batch:
            loss = distilled(loss_of(heads[0], labels), heads[-1], batch["teacher"])
        else:
            loss = sum(loss_of(head, labels) for head in heads) / len(heads)
        # With soft labels, the most likely class is the correct one.
        right = labels if labels.ndim == 1 else labels.argmax(axis=-1)
        return loss, sum(heads).argmax(axis=-1) == right

    def class_scores(output):
        logits = output[0]
        return sum(logits) / len(logits) if isinstance(logits, tuple) else logits

    classes = getattr(model, "num_classes", None)
    return Task(lambda batch, rngs: (batch["image"],), score, classes, class_scores)


def class_predictions(
    config: ml_collections.ConfigDict, scores: jax.Array, labels: jax.Array
) -> dict[str, jax.Array]:
    """Return the predictions that metrics are computed from, arrays [B]; see `make_eval_step`.

    Args:
      config: config of the run; its loss maps scores to probabilities.
      scores: class scores [B, K].
      labels: int [B].
    """
    scores = scores.astype(jnp.float32)
    p, index = probabilities(config)(scores), jnp.arange(scores.shape[-1])
    truth = jax.nn.one_hot(labels, scores.shape[-1])
    own = jnp.take_along_axis(scores, labels[:, None], axis=-1)
    prediction = scores.argmax(axis=-1).astype(jnp.int32)
    # The first of equal scores is predicted. With a `nan` score, no label has rank 0.
    beaten = (scores < own) | ((scores == own) & (index >= labels[:, None]))
    cross_entropy = sigmoid if by_class(config) else softmax
    return {
        "label": labels,
        "prediction": prediction,
        "rank": jnp.sum(~beaten, axis=-1, dtype=jnp.int32),
        "confidence": jnp.take_along_axis(p, prediction[:, None], axis=-1)[:, 0],
        "nll": cross_entropy(scores, truth),
        "brier": jnp.square(p - truth).sum(axis=-1),
    }
