"""Checks of field values: each raises a ValueError of one line that names what is allowed."""

from collections.abc import Iterable


def one_of(field: str, value: str, allowed: Iterable[str]) -> None:
    """`value` must be one of `allowed`."""
    allowed = list(allowed)
    if value not in allowed:
        raise ValueError(f"unknown {field} {value!r}; allowed: {', '.join(allowed)}")


def rate(field: str, value: float) -> None:
    """`value` must be a share of something that may be dropped: at least 0 and less than 1."""
    if not 0 <= value < 1:
        raise ValueError(f"{field} must lie in [0, 1), got {value}")


def positive(field: str, values: Iterable[int]) -> None:
    """Every one of `values` must be at least 1."""
    values = tuple(values)
    if any(value < 1 for value in values):
        raise ValueError(f"{field} must be at least 1, got {', '.join(map(str, values))}")


def image_at_least(model: str, shape: tuple[int, ...], smallest: int) -> None:
    """The image [B, H, W, C] of that shape must have both sides at least `smallest` pixels long."""
    if min(shape[1:3]) < smallest:
        raise ValueError(
            f"{model} needs images of at least {smallest}x{smallest}, got {shape[1]}x{shape[2]}"
        )
