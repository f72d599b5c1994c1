"""Objectives: what a training step differentiates."""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import optax

from cv_jax.errors import InputError
from cv_jax.models.lenet import rbf_loss


def softmax(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Cross-entropy [B] of logits [B, K] and label probabilities [B, K]."""
    return optax.softmax_cross_entropy(logits, labels)


def sigmoid(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Binary cross-entropies of logits and targets [B, K], summed over the classes to [B]."""
    return optax.sigmoid_binary_cross_entropy(logits, labels).sum(axis=-1)


def rbf(logits: jax.Array, labels: jax.Array, margin: float) -> jax.Array:
    """LeNet-5's criterion [B] on scores that are negated penalties; see `models.lenet.rbf_loss`."""
    return rbf_loss(-logits, labels, margin)


# Name → the loss that a config means by it.
LOSSES: dict[str, Callable] = {
    "softmax": lambda config: softmax,
    "sigmoid": lambda config: sigmoid,
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
      InputError: an unknown loss, or a smoothing outside 0…1.
    """
    name, smoothing = config.loss.name, config.loss.label_smoothing
    if name not in LOSSES:
        raise InputError(f"config.loss.name: unknown loss {name!r}; allowed: {', '.join(LOSSES)}")
    if not 0 <= smoothing < 1:
        raise InputError(f"config.loss.label_smoothing={smoothing} is not in 0…1")

    if config.loss.margin <= 0:
        raise InputError(f"config.loss.margin={config.loss.margin} must be positive")
    cross_entropy = LOSSES[name](config)

    def loss(logits, labels):
        labels = smooth(as_probabilities(labels, logits.shape[-1]), smoothing)
        return cross_entropy(logits, labels)

    return loss


def metric_sums(loss: jax.Array, logits: jax.Array, labels: jax.Array, mask: jax.Array) -> dict:
    """Sums over the examples that a mask [B] of 0 and 1 keeps; counts are integers.

    With soft labels, the likeliest class counts as the right one.
    """
    right = labels if labels.ndim == 1 else labels.argmax(axis=-1)
    return {
        "loss": jnp.sum(loss * mask),
        "correct": jnp.sum((logits.argmax(axis=-1) == right) & (mask > 0), dtype=jnp.int32),
        "count": jnp.sum(mask > 0, dtype=jnp.int32),
    }


def objective(config: ml_collections.ConfigDict, model: nn.Module) -> Callable:
    """What the training step differentiates.

    Returns:
      `(params, state, batch, rngs) → (loss, (metric sums, state))`, with `state` the model's other
      collections (such as running statistics), and `batch` a dict of image float32 [B, H, W, C],
      normalised, and label, int [B] or float [B, K].
    """
    loss_of = loss_function(config)

    def compute(params, state, batch, rngs):
        (logits, _), state = model.apply(
            {"params": params, **state},
            batch["image"],
            train=True,
            rngs=rngs,
            mutable=list(state),
        )
        loss = loss_of(logits, batch["label"])
        mask = jnp.ones(len(loss))
        return loss.mean(), (metric_sums(loss, logits, batch["label"], mask), state)

    return compute
