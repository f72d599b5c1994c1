"""Types and ranges of options for argparse, shared by several commands."""

import argparse
import re
from pathlib import Path

from cv_jax.config.fields import MAX_IMAGE_SIDE
from cv_jax.config.values import parse
from cv_jax.errors import InputError


def image_size(text: str) -> tuple[int, int]:
    """Parse `224`, `64x256` or `64,256` (height, width), as `config.image_size`."""
    try:
        size = parse(text, int | tuple[int, int])
    except TypeError:
        size = 0
    size = size if isinstance(size, tuple) else (size, size)
    if not all(1 <= side <= MAX_IMAGE_SIDE for side in size):
        raise argparse.ArgumentTypeError(
            f"expected 224, 64x256 or 64,256 with sides of 1 to {MAX_IMAGE_SIDE}, got {text!r}"
        )
    return size


def path(text: str) -> Path:
    """Parse a path; an empty text, such as an unset variable of a shell, is an error."""
    if not text.strip():
        raise argparse.ArgumentTypeError(f"expected a path, got {text!r}")
    return Path(text)


def require_ranges(options: argparse.Namespace, **ranges: tuple[int, int]) -> None:
    """Raise an `InputError` for an option outside its range; `None` is allowed.

    Args:
      options: the parsed options.
      **ranges: name of an option → smallest and largest value.
    """
    for name, (least, most) in ranges.items():
        value = getattr(options, name)
        if value is not None and not least <= value <= most:
            flag = f"--{name.replace('_', '-')}"
            raise InputError(f"{flag}={value} must be at least {least} and at most {most}")


def fields(text: str) -> dict[str, str]:
    """Parse `name=value,name=value` to name → text; see `config.model_fields`."""
    fields = {}
    # A comma separates fields only before `name=`; values may contain commas.
    for part in re.split(r",\s*(?=\w+=)", text):
        name, equals, value = part.partition("=")
        if not equals or not name.isidentifier():
            raise argparse.ArgumentTypeError(f"expected name=value,…, got {text!r}")
        if name in fields:
            raise argparse.ArgumentTypeError(f"{name} is given twice in {text!r}")
        fields[name] = value
    return fields
