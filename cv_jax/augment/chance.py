"""Whether an operation is applied to an image."""

from collections.abc import Callable

import jax
import jax.numpy as jnp


def sometimes(probability: float, operation: Callable) -> Callable:
    """`(key, image) → image` that runs `operation` with that probability.

    At 1 there is no coin, and the operation gets the key itself; at 0 nothing is left to compute.

    Raises:
      ValueError: the probability is outside 0…1.
    """
    check_probability(probability=probability)
    if probability == 0:
        return lambda key, image: image
    if probability == 1:
        return operation

    def apply(key, image):
        coin, key = jax.random.split(key)
        return jnp.where(jax.random.bernoulli(coin, probability), operation(key, image), image)

    return apply


def check_probability(**values: float) -> None:
    """Raises ValueError unless every value is in 0…1."""
    for name, value in values.items():
        if not 0 <= value <= 1:
            raise ValueError(f"{name} must be in 0…1, got {value}")


def not_negative(**values: float) -> None:
    """Raises ValueError unless every value is at least 0."""
    for name, value in values.items():
        if value < 0:
            raise ValueError(f"{name} must not be negative, got {value}")
