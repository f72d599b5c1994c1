"""Checks of field values. Each raises a ValueError of one line with the allowed values."""

from collections.abc import Iterable

from cv_jax.errors import did_you_mean


def one_of(field: str, value: object, allowed: Iterable[object]) -> None:
    """Require `value` to be one of `allowed`."""
    allowed = list(allowed)
    if value not in allowed:
        names = [str(name) for name in allowed]
        hint = did_you_mean(str(value), names)
        raise ValueError(f"unknown {field} {value!r}; allowed: {', '.join(names)}{hint}")


def rate(field: str, value: float) -> None:
    """Require `value` to be a dropped share: at least 0 and less than 1."""
    if not 0 <= value < 1:
        raise ValueError(f"{field} must lie in [0, 1), got {value}")


def positive(field: str, values: Iterable[int]) -> None:
    """Require every value to be at least 1."""
    values = tuple(values)
    if any(value < 1 for value in values):
        raise ValueError(f"{field} must be at least 1, got {', '.join(map(str, values))}")


def image_at_least(model: str, shape: tuple[int, ...], smallest: int) -> None:
    """Require both sides of an image of shape [B, H, W, C] to be at least `smallest` pixels."""
    if min(shape[1:3]) < smallest:
        raise ValueError(
            f"{model} needs images of at least {smallest}x{smallest}, got {shape[1]}x{shape[2]}"
        )
