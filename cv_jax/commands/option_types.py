"""Types of options for argparse, shared by several commands."""

import argparse
import re


def image_size(text: str) -> tuple[int, int]:
    """Parse `224` or `HEIGHTxWIDTH`."""
    match = re.fullmatch(r"([1-9]\d*)(?:x([1-9]\d*))?", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"expected 224 or HEIGHTxWIDTH, got {text!r}")
    height, width = match.groups()
    return int(height), int(width or height)


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
