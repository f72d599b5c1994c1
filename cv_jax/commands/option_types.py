"""Types of options for argparse, shared by several commands."""

import argparse
import ast
import re
from typing import Any


def image_size(text: str) -> tuple[int, int]:
    """Parse `224` or `HEIGHTxWIDTH`."""
    match = re.fullmatch(r"([1-9]\d*)(?:x([1-9]\d*))?", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"expected 224 or HEIGHTxWIDTH, got {text!r}")
    height, width = match.groups()
    return int(height), int(width or height)


def fields(text: str) -> dict[str, Any]:
    """Parse `name=value,name=value`; a value is a Python literal, or else a string."""
    fields = {}
    # A comma separates fields only before `name=`; values may contain commas.
    for part in re.split(r",(?=\w+=)", text):
        name, equals, value = part.partition("=")
        if not equals:
            raise argparse.ArgumentTypeError(f"expected name=value,…, got {text!r}")
        try:
            fields[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            fields[name] = value
    return fields
