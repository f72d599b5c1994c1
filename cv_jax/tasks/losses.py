"""Classification losses, and the probabilities of logits under each loss."""

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
    """Return the cross-entropy [B] of logits [B, K] and label probabilities [B, K]."""
    return optax.softmax_cross_entropy(logits, labels)


def sigmoid(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Return the binary cross-entropies of logits and targets [B, K], summed over classes: [B]."""
    return optax.sigmoid_binary_cross_entropy(logits, labels).sum(axis=-1)


def focal(logits: jax.Array, labels: jax.Array, gamma: float) -> jax.Array:
    """Return the focal loss [B] of a softmax (Lin et al., 2017, section 3).

    The weight (1 − p)^gamma of a term is small for a probability p near one.
    """
    log_p = jax.nn.log_softmax(logits)
    return -(labels * _power(-jnp.expm1(log_p), gamma) * log_p).sum(axis=-1)


def sigmoid_focal(
    logits: jax.Array, labels: jax.Array, gamma: float, alpha: float | None
) -> jax.Array:
    """Return the focal loss of binary cross-entropies, summed over classes to [B], as torchvision.

    Targets have the weight alpha, other classes 1 − alpha (Lin et al., 2017, equation 5); with
    `None` all have the weight 1.
    """
    p = jax.nn.sigmoid(logits)
    wrong = p * (1 - labels) + (1 - p) * labels
    loss = optax.sigmoid_binary_cross_entropy(logits, labels) * _power(wrong, gamma)
    if alpha is not None:
        loss = loss * (alpha * labels + (1 - alpha) * (1 - labels))
    return loss.sum(axis=-1)


def _power(x, gamma):
    """Return x^gamma for x in [0, 1], with a finite gradient at 0 for every gamma."""
    return jnp.maximum(x, 1e-6) ** gamma


def rbf(logits: jax.Array, labels: jax.Array, margin: float) -> jax.Array:
    """Return LeNet-5's loss [B] of negated penalties; see `models.lenet.rbf_loss`."""
    return rbf_loss(-logits, labels, margin)


# `config.loss.name` → `config → loss function`.
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
    """Convert class indices [B] to one-hot [B, K]; return probabilities [B, K] unchanged."""
    return labels if labels.ndim == 2 else jax.nn.one_hot(labels, num_classes)


def smooth(labels: jax.Array, amount: float) -> jax.Array:
    """Move `amount` of the probability evenly to all classes (Szegedy et al., 2016)."""
    return labels * (1 - amount) + amount / labels.shape[-1] if amount else labels


def check(config: ml_collections.ConfigDict) -> None:
    """Raise an `InputError` if `config.loss` sets an option that its loss does not have."""
    c = config.loss
    if c.z and c.name not in ("softmax", "focal"):
        raise InputError(f"config.loss.z={c.z}: only softmax and focal have a normaliser")


def loss_function(config: ml_collections.ConfigDict) -> Callable:
    """Return the loss of a config: `(logits [B, K], labels [B] or [B, K]) → loss [B]`, float32.

    Raises:
      InputError: see `check`.
    """
    c = config.loss
    check(config)
    cross_entropy = LOSSES[c.name](config)

    def loss(logits, labels):
        labels = smooth(as_probabilities(labels, logits.shape[-1]), c.label_smoothing)
        value = cross_entropy(logits, labels)
        # Keeps the normaliser near one (Chowdhery et al., 2022, arXiv:2204.02311, section 5).
        return value + c.z * jax.nn.logsumexp(logits, axis=-1) ** 2 if c.z else value

    return loss


def probabilities(config: ml_collections.ConfigDict) -> Callable:
    """Return `logits [B, K] → probabilities [B, K]`.

    The probabilities are a distribution over classes. With a sigmoid loss each class has its own
    probability.
    """
    return jax.nn.sigmoid if by_class(config) else jax.nn.softmax


def by_class(config: ml_collections.ConfigDict) -> bool:
    """Whether the loss gives each class its own probability."""
    return config.loss.name in ("sigmoid", "sigmoid_focal")


def average_views(
    config: ml_collections.ConfigDict,
    scores: jax.Array,
    average: str,
    weights: jax.Array | None = None,
) -> jax.Array:
    """Average the logits of V views [B, V, K] to [B, K].

    With `average="logits"` the result is the mean. With "probabilities" it is the logits whose
    probabilities are the mean of the views' probabilities. `weights` [B, V] have sum 1; `None`:
    equal weights.
    """
    if average == "logits":
        if weights is None:
            return scores.mean(axis=1)
        return jnp.sum(weights[..., None] * scores, axis=1)
    scale = None if weights is None else weights[..., None]
    if by_class(config):
        log_p = logsumexp(jax.nn.log_sigmoid(scores), axis=1, b=scale)
        log_not_p = logsumexp(jax.nn.log_sigmoid(-scores), axis=1, b=scale)
        return log_p - log_not_p
    total = logsumexp(jax.nn.log_softmax(scores), axis=1, b=scale)
    return total - jnp.log(scores.shape[1]) if weights is None else total
