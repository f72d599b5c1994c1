"""Application of an operation with a probability, and checks of arguments."""

from collections.abc import Callable

import jax
import jax.numpy as jnp


def sometimes(probability: float, operation: Callable) -> Callable:
    """Return `(key, image) → image`, which applies `operation` with a probability.

    At probability 1 the operation receives the key itself, without a draw. At probability 0 the
    result is the identity.

    Raises:
      ValueError: the probability is outside 0…1.
    """
    check_share(probability=probability)
    if probability == 0:
        return lambda key, image: image
    if probability == 1:
        return operation

    def apply(key, image):
        coin, key = jax.random.split(key)
        return jnp.where(jax.random.bernoulli(coin, probability), operation(key, image), image)

    return apply


def check_share(**values: float) -> None:
    """Raise ValueError unless every value is in 0…1."""
    for name, value in values.items():
        if not 0 <= value <= 1:
            raise ValueError(f"{name} must be in 0…1, got {value}")


def not_negative(**values: float) -> None:
    """Raise ValueError unless every value is at least 0."""
    for name, value in values.items():
        if value < 0:
            raise ValueError(f"{name} must not be negative, got {value}")
