"""Loss functions of scores and labels, and the probabilities that the scores stand for."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import ml_collections
import optax
from jax.scipy.special import logsumexp

from cv_jax.errors import InputError
from cv_jax.models.lenet import rbf_loss


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


def check(config: ml_collections.ConfigDict) -> None:
    """Raise an `InputError` if `config.loss` sets an option that its loss does not have."""
    c = config.loss
    if c.z and c.name not in ("softmax", "focal"):
        raise InputError(f"config.loss.z={c.z}: only softmax and focal have a normaliser")


def loss_function(config: ml_collections.ConfigDict) -> Callable:
    """`(logits [B, K], labels [B] or [B, K]) → loss [B]` as the config says, in float32.

    Raises:
      InputError: see `check`.
    """
    c = config.loss
    check(config)
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
    return jax.nn.sigmoid if by_class(config) else jax.nn.softmax


def by_class(config) -> bool:
    return config.loss.name in ("sigmoid", "sigmoid_focal")


def average_views(config: ml_collections.ConfigDict, scores: jax.Array, average: str) -> jax.Array:
    """Scores [B, K] that stand for those of V views [B, V, K].

    With `average="logits"` their mean; with "probabilities" the scores whose probabilities are the
    mean of the views' probabilities.
    """
    if average == "logits":
        return scores.mean(axis=1)
    if by_class(config):
        log_p = logsumexp(jax.nn.log_sigmoid(scores), axis=1)
        log_not_p = logsumexp(jax.nn.log_sigmoid(-scores), axis=1)
        return log_p - log_not_p
    return logsumexp(jax.nn.log_softmax(scores), axis=1) - jnp.log(scores.shape[1])
