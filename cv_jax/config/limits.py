"""Ranges of config values: those of `fields.py`, and general limits of model fields."""

import math
from typing import Any

import ml_collections

from cv_jax.config.fields import FIELDS
from cv_jax.config.tree import flatten
from cv_jax.config.values import LARGEST
from cv_jax.errors import InputError

MAX_LAYERS = 2000  # tracing a deeper net takes hours
DTYPES = ("float32", "bfloat16")
# Model fields whose values, one or several, sum to a number of layers.
_DEPTHS = ("depth", "decoder_depth", "depths", "stage_sizes")


def check_values(config: ml_collections.ConfigDict) -> None:
    """Check every value of a config against the range of its field.

    Raises:
      InputError: a value is out of range or not among the allowed ones.
    """
    for name, value in flatten(config).items():
        if name in FIELDS:
            FIELDS[name].check(value)
        elif name == "model.axis_name":
            axes = (None, "data") if config.mesh.step == "pmap" else (None,)
            if value not in axes:
                raise InputError(
                    f"config.{name}={value!r} is not none, or data with config.mesh.step=pmap"
                )
        elif name != "model.name":
            check_model_field(f"config.{name}", name.removeprefix("model."), value)


def check_model_field(field: str, leaf: str, value: Any) -> None:
    """Check the value of a model's field `leaf` against general limits; `field` is for messages.

    Raises:
      InputError: the value is not allowed.
    """
    numbers = value if isinstance(value, tuple) else (value,)
    if leaf in ("dtype", "param_dtype") and value not in DTYPES:
        why = "; gradients underflow in float16" if value == "float16" else ""
        raise InputError(f"{field}: {value!r} is not one of {', '.join(DTYPES)}{why}")
    for number in numbers:
        if isinstance(number, int) and number > LARGEST:
            raise InputError(f"{field}={value} is too large: at most {LARGEST}")
        if isinstance(number, float) and not math.isfinite(number):
            raise InputError(f"{field}={value} is not finite")
        if isinstance(number, (int, float)) and number < 0:
            raise InputError(f"{field}={value} must be at least 0")
    if len(numbers) > MAX_LAYERS or (leaf in _DEPTHS and sum(numbers) > MAX_LAYERS):
        raise InputError(f"{field}={value}: a net has at most {MAX_LAYERS} layers")
