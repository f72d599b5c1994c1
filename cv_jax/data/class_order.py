"""Order of class names: sorted as text here and in torchvision, in natural order in timm."""

import re
from collections.abc import Iterable


def natural(names: Iterable[str]) -> tuple[str, ...]:
    """Return the names in timm's order: numbers by value, letters without case.

    `timm.utils.natural_key`, by which timm sorts the class folders of a dataset.
    """
    return tuple(sorted(names, key=_natural_key))


def listed(names: tuple[str, ...], most: int = 4) -> str:
    """Return the first names as text."""
    more = "" if len(names) <= most else ", …"
    return ", ".join(map(repr, names[:most])) + more


def _natural_key(name: str) -> list[str | int]:
    return [int(s) if s.isdecimal() else s for s in re.split(r"(\d+)", name.lower())]
