"""Image classification: scores of the classes, and what the metrics need of each prediction."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections

from cv_jax.tasks import distillation
from cv_jax.tasks.losses import by_class, loss_function, probabilities, sigmoid, softmax
from cv_jax.tasks.task import Task


def classification(config: ml_collections.ConfigDict, model: nn.Module) -> Task:
    """Image → scores of the classes.

    A model that gives several scores in training (DeiT's two heads) is trained on the labels with
    each of them: their losses are averaged, as are the scores for the accuracy. Where the batch
    brings a teacher's scores, the last head learns from them and the first from the labels; a
    single head learns from both; see `distillation`.
    """
    loss_of, taught = loss_function(config), distillation.loss_function(config)

    def score(output, batch):
        logits, labels = output[0], batch["label"]
        heads = logits if isinstance(logits, tuple) else (logits,)
        if "teacher" in batch:
            loss = taught(loss_of(heads[0], labels), heads[-1], batch["teacher"])
        else:
            loss = sum(loss_of(head, labels) for head in heads) / len(heads)
        # With soft labels, the likeliest class counts as the right one.
        right = labels if labels.ndim == 1 else labels.argmax(axis=-1)
        return loss, sum(heads).argmax(axis=-1) == right

    def class_scores(output):
        logits = output[0]
        return sum(logits) / len(logits) if isinstance(logits, tuple) else logits

    classes = getattr(model, "num_classes", None)
    return Task(lambda batch, rngs: (batch["image"],), score, classes, class_scores)


def class_answers(
    config: ml_collections.ConfigDict, scores: jax.Array, labels: jax.Array
) -> dict[str, jax.Array]:
    """What the metrics need to know of each row: see `step.make_eval_step`.

    Args:
      config: the run's config; its loss says which probabilities the scores [B, K] stand for.
      scores: of the classes.
      labels: int [B].
    """
    scores = scores.astype(jnp.float32)
    p, index = probabilities(config)(scores), jnp.arange(scores.shape[-1])
    truth = jax.nn.one_hot(labels, scores.shape[-1])
    own = jnp.take_along_axis(scores, labels[:, None], axis=-1)
    prediction = scores.argmax(axis=-1).astype(jnp.int32)
    # Of equal scores the first is the answer. A score that is not a number beats every other.
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
