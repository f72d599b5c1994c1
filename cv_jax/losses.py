"""Losses, tasks and objectives: what a training step differentiates.

A `Task` says how a kind of model is fed with a batch of images and how its answer is scored; it is
all that differs between kinds. One objective, one evaluation and one loop serve every task.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import optax
from jax.scipy.special import logsumexp

from cv_jax import distillation
from cv_jax.errors import InputError
from cv_jax.models.image_transformer import ImageTransformer
from cv_jax.models.lenet import rbf_loss
from cv_jax.models.mae import MAE, reconstruction_loss
from cv_jax.models.transformer import BOS, EOS, Transformer
from cv_jax.values import check_choice


def softmax(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Cross-entropy [B] of logits [B, K] and label probabilities [B, K]."""
    return optax.softmax_cross_entropy(logits, labels)


def sigmoid(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Binary cross-entropies of logits and targets [B, K], summed over the classes to [B]."""
    return optax.sigmoid_binary_cross_entropy(logits, labels).sum(axis=-1)


def focal(logits: jax.Array, labels: jax.Array, gamma: float) -> jax.Array:
    """Softmax cross-entropy [B] whose terms weigh (1 − p)^gamma (Lin et al., 2017, section 3).

    What is classified well already, with a probability p near one, counts little.
    """
    log_p = jax.nn.log_softmax(logits)
    return -(labels * _power(-jnp.expm1(log_p), gamma) * log_p).sum(axis=-1)


def sigmoid_focal(
    logits: jax.Array, labels: jax.Array, gamma: float, alpha: float | None
) -> jax.Array:
    """The same for binary cross-entropies, summed over the classes to [B], as in torchvision.

    Targets are weighed alpha, the other classes 1 − alpha (Lin et al., 2017, equation 5); with none
    for alpha neither is.
    """
    p = jax.nn.sigmoid(logits)
    wrong = p * (1 - labels) + (1 - p) * labels
    loss = optax.sigmoid_binary_cross_entropy(logits, labels) * _power(wrong, gamma)
    if alpha is not None:
        loss = loss * (alpha * labels + (1 - alpha) * (1 - labels))
    return loss.sum(axis=-1)


def _power(x, gamma):
    """x^gamma for x in 0…1, whose gradient at 0 is finite for every gamma."""
    return jnp.maximum(x, 1e-6) ** gamma


def rbf(logits: jax.Array, labels: jax.Array, margin: float) -> jax.Array:
    """LeNet-5's criterion [B] on scores that are negated penalties; see `models.lenet.rbf_loss`."""
    return rbf_loss(-logits, labels, margin)


# Name → the loss that a config means by it.
LOSSES: dict[str, Callable] = {
    "softmax": lambda config: softmax,
    "sigmoid": lambda config: sigmoid,
    "focal": lambda config: functools.partial(focal, gamma=config.loss.gamma),
    "sigmoid_focal": lambda config: functools.partial(
        sigmoid_focal, gamma=config.loss.gamma, alpha=config.loss.alpha
    ),
    "rbf": lambda config: functools.partial(rbf, margin=config.loss.margin),
}


def as_probabilities(labels: jax.Array, num_classes: int) -> jax.Array:
    """Class indices [B] as one-hot [B, K]; probabilities [B, K] as they are."""
    return labels if labels.ndim == 2 else jax.nn.one_hot(labels, num_classes)


def smooth(labels: jax.Array, amount: float) -> jax.Array:
    """Moves `amount` of the probability mass evenly to all classes (Szegedy et al., 2016)."""
    return labels * (1 - amount) + amount / labels.shape[-1] if amount else labels


def loss_function(config: ml_collections.ConfigDict) -> Callable:
    """`(logits [B, K], labels [B] or [B, K]) → loss [B]` as the config says, in float32.

    Raises:
      InputError: an unknown loss, or a value out of range.
    """
    c = config.loss
    check_choice("config.loss.name", "loss", c.name, LOSSES)
    if not 0 <= c.label_smoothing < 1:
        raise InputError(f"config.loss.label_smoothing={c.label_smoothing} is not in 0…1")
    if c.alpha is not None and not 0 <= c.alpha <= 1:
        raise InputError(f"config.loss.alpha={c.alpha} is not in 0…1")
    if not c.margin > 0:
        raise InputError(f"config.loss.margin={c.margin} must be positive")
    for field in ("gamma", "z"):
        if not 0 <= c[field] < math.inf:
            raise InputError(f"config.loss.{field}={c[field]} must be at least 0")
    if c.z and c.name not in ("softmax", "focal"):
        raise InputError(f"config.loss.z={c.z}: only softmax and focal have a normaliser")
    cross_entropy = LOSSES[c.name](config)

    def loss(logits, labels):
        labels = smooth(as_probabilities(labels, logits.shape[-1]), c.label_smoothing)
        value = cross_entropy(logits, labels)
        # Holds the normaliser near one (Chowdhery et al., 2022, arXiv:2204.02311, section 5).
        return value + c.z * jax.nn.logsumexp(logits, axis=-1) ** 2 if c.z else value

    return loss


def probabilities(config: ml_collections.ConfigDict) -> Callable:
    """`scores [B, K] → probabilities [B, K]`: a distribution over the classes, or with a sigmoid
    loss one of each class for itself."""
    return jax.nn.sigmoid if _by_class(config) else jax.nn.softmax


def _by_class(config) -> bool:
    return config.loss.name in ("sigmoid", "sigmoid_focal")


def average_views(config: ml_collections.ConfigDict, scores: jax.Array, average: str) -> jax.Array:
    """Scores [B, K] that stand for those of V views [B, V, K].

    With `average="logits"` their mean; with "probabilities" the scores whose probabilities are the
    mean of the views' probabilities.
    """
    if average == "logits":
        return scores.mean(axis=1)
    if _by_class(config):
        log_p = logsumexp(jax.nn.log_sigmoid(scores), axis=1)
        log_not_p = logsumexp(jax.nn.log_sigmoid(-scores), axis=1)
        return log_p - log_not_p
    return logsumexp(jax.nn.log_softmax(scores), axis=1) - jnp.log(scores.shape[1])


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
    cross_entropy = sigmoid if _by_class(config) else softmax
    return {
        "label": labels,
        "prediction": prediction,
        "rank": jnp.sum(~beaten, axis=-1, dtype=jnp.int32),
        "confidence": jnp.take_along_axis(p, prediction[:, None], axis=-1)[:, 0],
        "nll": cross_entropy(scores, truth),
        "brier": jnp.square(p - truth).sum(axis=-1),
    }


class Task(NamedTuple):
    """How a kind of model is fed and scored.

    A batch is a dict of image float32 [B, H, W, C], normalised; label, int [B] or float [B, K]; and
    position int [B], of each example in the global batch (in evaluation: in the split).

    Attributes:
      inputs: `(batch, rngs)` → the model's positional arguments.
      score: `(what the model returned, batch)` → `(loss [B], right bool [B])`, the second none for
        a task that knows no right and wrong; then there is no accuracy.
      classes: how many classes the model can tell apart; none if it need not.
      class_scores: what the model returned → scores [B, K] of which the largest is the answer; the
        first so many belong to the classes. None for a task that knows no right and wrong.
    """

    inputs: Callable[[dict, dict], tuple[jax.Array, ...]]
    score: Callable[[Any, dict], tuple[jax.Array, jax.Array | None]]
    classes: int | None
    class_scores: Callable[[Any], jax.Array] | None = None


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


def reconstruction(config: ml_collections.ConfigDict, model: MAE) -> Task:
    """Masked image → the pixels of its removed patches, standardised by patch (He et al., 2022).

    Which patches are removed is drawn for each example by its position from the stream `mask`.
    """
    (rows, columns), _ = model.check()

    def inputs(batch, rngs):
        def noise(position):
            return jax.random.uniform(jax.random.fold_in(rngs["mask"], position), (rows * columns,))

        return batch["image"], jax.vmap(noise)(batch["position"])

    def score(output, batch):
        prediction, features = output
        mask = features["mask"]
        return reconstruction_loss(batch["image"], prediction, mask, model.patch_size), None

    return Task(inputs, score, None)


def transcription(config: ml_collections.ConfigDict, model: ImageTransformer) -> Task:
    """Image → the sequence [BOS, token of its label, EOS]; class k is token 3 + k.

    The decoder reads the first two tokens and predicts the last two: their cross-entropies are
    averaged. The answer is right if the likeliest token after BOS, of the whole vocabulary, is the
    label's; causality keeps the label from this prediction.

    Raises:
      InputError: the config mixes labels, or names another loss than softmax.
    """
    if config.loss.name != "softmax":
        raise InputError(f"config.loss.name={config.loss.name}: tokens are learnt with softmax")
    loss_of = loss_function(config)

    def tokens(batch):
        if batch["label"].ndim != 1:
            raise InputError("config.augment: labels that are tokens cannot be mixed")
        return EOS + 1 + batch["label"]

    def inputs(batch, rngs):
        token = tokens(batch)
        return batch["image"], jnp.stack([jnp.full_like(token, BOS), token], axis=1)

    def score(output, batch):
        logits, token = output[0], tokens(batch)
        first, second = (
            loss_of(logits[:, 0], token),
            loss_of(logits[:, 1], jnp.full_like(token, EOS)),
        )
        return (first + second) / 2, logits[:, 0].argmax(axis=-1) == token

    def class_scores(output):  # of the whole vocabulary, the classes first
        return jnp.roll(output[0][:, 0], -(EOS + 1), axis=-1)

    return Task(inputs, score, model.vocab_size - (EOS + 1), class_scores)


def translation(config: ml_collections.ConfigDict, model: Transformer) -> Task:
    """Tokens → tokens, for which there are no datasets here.

    Raises:
      InputError: always.
    """
    raise InputError(
        f"config.model.name: {config.model.name} maps tokens to tokens; only models of images can "
        f"be trained on {config.data.name}"
    )


# Kind of model → its task; every other kind is a classifier.
TASKS: dict[type, Callable] = {
    MAE: reconstruction,
    ImageTransformer: transcription,
    Transformer: translation,
}


def task(config: ml_collections.ConfigDict, model: nn.Module) -> Task:
    """What the model is asked to do.

    Raises:
      InputError: the config does not suit this kind of model.
    """
    return TASKS.get(type(model), classification)(config, model)


def blank_batch(image_shape: tuple[int, int, int], num_classes: int = 0) -> dict[str, jax.Array]:
    """A batch of one black image, with label 0 or, given the classes, with label probabilities."""
    return {
        "image": jnp.zeros((1, *image_shape), jnp.float32),
        "label": jnp.zeros((1, num_classes)) if num_classes else jnp.zeros(1, jnp.int32),
        "position": jnp.zeros(1, jnp.int32),
    }


def fold_views(batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Several views of an example [B, V, H, W, C] as examples of their own [B·V, H, W, C]."""
    if batch["image"].ndim == 4:
        return batch
    count, views = batch["image"].shape[:2]
    label = batch["label"]
    if label.ndim == 1:
        label = jnp.repeat(label[:, None], views, axis=1)
    return {
        "image": batch["image"].reshape(count * views, *batch["image"].shape[2:]),
        "label": label.reshape(count * views, *label.shape[2:]),
        "position": (batch["position"][:, None] * views + jnp.arange(views)).reshape(-1),
    }


def metric_sums(loss: jax.Array, right: jax.Array | None, mask: jax.Array) -> dict[str, jax.Array]:
    """Sums over the examples that a mask [B] of 0 and 1 keeps; counts are integers.

    `correct` is among them if `right` [B] says which answers were right.
    """
    sums = {"loss": jnp.sum(loss * mask), "count": jnp.sum(mask > 0, dtype=jnp.int32)}
    if right is not None:
        sums["correct"] = jnp.sum(right & (mask > 0), dtype=jnp.int32)
    return sums


def objective(config: ml_collections.ConfigDict, model: nn.Module) -> Callable:
    """What the training step differentiates.

    Returns:
      `(params, state, batch, rngs) → (loss, (metric sums, state))`, with `state` the model's other
      collections (such as running statistics); see `Task` for the batch.
    """
    inputs, score, *_ = task(config, model)

    def compute(params, state, batch, rngs):
        batch = fold_views(batch)
        output, state = model.apply(
            {"params": params, **state},
            *inputs(batch, rngs),
            train=True,
            rngs=rngs,
            mutable=list(state),
        )
        loss, right = score(output, batch)
        return loss.mean(), (metric_sums(loss, right, jnp.ones(len(loss))), state)

    return compute
