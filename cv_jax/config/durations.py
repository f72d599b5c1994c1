"""Durations in steps, epochs, examples or percent, converted to steps."""

import ml_collections

from cv_jax.config.fields import FIELDS, UNITS
from cv_jax.config.tree import flatten
from cv_jax.config.values import LARGEST
from cv_jax.errors import InputError

FOREVER = 2**31  # steps; more than an int32 on a device can hold


def steps_of(
    config: ml_collections.ConfigDict, name: str, examples: int, total_steps: int | None = None
) -> int | None:
    """Return a duration in whole steps, or `None` if the duration is not set.

    A positive duration has at least one step.

    Args:
      config: the run's config.
      name: field name without the unit, such as "schedule.warmup".
      examples: size of the training split.
      total_steps: length of the training, for percent.
    """
    values = {unit: flatten(config).get(f"{name}_{unit}") for unit in UNITS}
    return in_steps(values, config.batch_size, examples, total_steps)


def in_steps(
    values: dict[str, float | None], batch_size: int, examples: int, total_steps: int | None
) -> int | None:
    """Convert unit → value to steps, as `steps_of`; the result is at most `FOREVER`."""
    for unit in UNITS:
        value = values[unit]
        if value is None:
            continue
        if unit == "percent":
            value = value / 100 * total_steps
        elif unit == "epochs":
            value = value * examples / batch_size
        elif unit == "examples":
            value = value / batch_size
        return max(1, round(min(value, FOREVER))) if value > 0 else 0
    return None


def total_steps(config: ml_collections.ConfigDict, examples: int) -> int:
    """Return the number of updates of the run.

    Args:
      config: the run's config.
      examples: size of the training split.

    Raises:
      InputError: the number is not in 1…`LARGEST`.
    """
    steps = steps_of(config, "total", examples)
    if not 1 <= steps <= LARGEST:
        shown = f"more than {LARGEST}" if steps > LARGEST else steps
        length = {f"total_{unit}": config[f"total_{unit}"] for unit in UNITS[:-1]}
        stated = next(f"{name}={value}" for name, value in length.items() if value is not None)
        raise InputError(f"config.{stated} gives {shown} updates; allowed are 1 to {LARGEST}")
    return steps


def other_units(name: str) -> list[str]:
    """Return the fields of the same duration in other units; empty if it is not a duration."""
    stem, _, unit = name.rpartition("_")
    if unit not in UNITS:
        return []
    return [f"{stem}_{u}" for u in UNITS if u != unit and f"{stem}_{u}" in FIELDS]


def check_durations(config: ml_collections.ConfigDict) -> None:
    """Check that each duration has at most one unit, and that the total duration is set.

    Raises:
      InputError: a duration has two units, or the total duration is missing.
    """
    flat = flatten(config)
    for name, value in flat.items():
        if value is None or not other_units(name):
            continue
        for other in other_units(name):
            if flat[other] is not None:
                raise InputError(f"config.{name} and config.{other} are both set; keep one")
    if all(flat[f"total_{unit}"] is None for unit in UNITS[:-1]):
        raise InputError("config.total_steps, total_epochs or total_examples must be set")
