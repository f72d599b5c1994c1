"""Conversion and parsing of config values by Python type hints.

Supported hints: `int`, `float`, `str`, `bool`, `None`, `tuple[T, ...]`, fixed tuples such as
`tuple[int, int]`, and unions of these.
"""

import ast
import contextlib
import re
import types
import typing
from typing import Any

from cv_jax.errors import InputError

LARGEST = 2**31 - 1  # an int32 on a device


def describe(hint: Any) -> str:
    """Describe a hint in words, such as "a number or none"."""
    names = {int: "an integer of 64 bits", float: "a number", bool: "true or false"}
    names[str] = "a string without null bytes"
    if hint in names:
        return names[hint]
    if hint in (None, type(None)):
        return "none"
    options = typing.get_args(hint)
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return " or ".join(describe(option) for option in options)
    if len(options) == 2 and options[1] is Ellipsis:
        return f"a comma-separated list, each {describe(options[0])}"
    return f"a list of {len(options)}, each {describe(options[0])}"


def tuples(value: Any) -> Any:
    """A value read from JSON, with tuples for lists: JSON has no tuples, fields have no lists."""
    if isinstance(value, dict):
        return {key: tuples(item) for key, item in value.items()}
    return tuple(map(tuples, value)) if isinstance(value, list) else value


def coerce(value: Any, hint: Any) -> Any:
    """Convert a value to the type of a hint without loss.

    1000.0 becomes an int, 1 a float, a list a tuple, and 3 the tuple (3,). Nothing is rounded,
    truncated or parsed from a string.

    Raises:
      TypeError: the value does not fit the hint. Integers of more than 64 bits, nan, and strings
        with a null byte fit no hint.
    """
    origin, options = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        # An exact type takes precedence over a conversion: (8, 8) is a tuple, not an int.
        for option in sorted(options, key=lambda option: not _is_exactly(value, option)):
            try:
                return coerce(value, option)
            except TypeError:
                continue
    elif origin is tuple:
        items = tuple(value) if isinstance(value, (tuple, list)) else (value,)
        if options[-1] is Ellipsis:
            return tuple(coerce(item, options[0]) for item in items)
        if len(items) == len(options):
            return tuple(coerce(i, o) for i, o in zip(items, options, strict=True))
    elif hint in (None, type(None)):
        if value is None:
            return None
    elif isinstance(value, bool) or hint is bool:
        if isinstance(value, bool) and hint is bool:
            return value
    elif hint is float:
        if isinstance(value, (int, float)) and value == value:
            with contextlib.suppress(OverflowError):
                return float(value) + 0.0  # -0.0 becomes 0.0
    elif hint is int:
        # nan fails every comparison, and inf is out of range.
        if isinstance(value, (int, float)) and -(2**63) <= value < 2**63 and value == value // 1:
            return int(value)
    elif isinstance(value, hint) and "\0" not in value:
        return value
    raise TypeError(f"{value!r} is not {describe(hint)}")


def parse(text: str, hint: Any) -> Any:
    """Parse a value of the hint's type: `1e3`, `true`, `none`, `3,4`, `(3, 4)`, `relu`, `'a b'`.

    A size may be `64x256`. An empty text is an empty list. A comma inside brackets, as
    in the regular expression `x{1,2}`, does not separate items. Only literals are parsed; no code
    is evaluated.

    Raises:
      TypeError: no interpretation of the text fits the hint.
    """
    if hint is str:
        return coerce(text, str)
    readings: list[Any] = []
    word = text.strip()
    hints = (hint, *typing.get_args(hint))
    if tuple[int, int] in hints and re.fullmatch(r"\d+x\d+", word):  # HEIGHTxWIDTH
        readings.append(tuple(map(int, word.split("x"))))
    if word.lower() in ("true", "false"):
        readings.append(word.lower() == "true")
    if word.lower() == "none":
        readings.append(None)
    with contextlib.suppress(ValueError, SyntaxError, MemoryError, RecursionError):
        readings.append(ast.literal_eval(word))
    # float() accepts "inf" and "nan", which are not literals.
    with contextlib.suppress(ValueError):
        readings.append(float(word))
    is_list = any(typing.get_origin(option) is tuple for option in hints)
    readings.append(_split(word) if is_list else text)
    for reading in readings:
        try:
            return coerce(reading, hint)
        except TypeError:
            continue
    raise TypeError(f"{text!r} is not {describe(hint)}")


def _split(text: str) -> list[str]:
    """Split a list of bare words, `a,b` or `(a,b)`; a comma after the last word is allowed.

    Raises:
      TypeError: a word is empty.
    """
    items = _at_commas(text)
    if len(items) == 1 and text[:1] + text[-1:] in ("()", "[]"):
        inner = _at_commas(text[1:-1])
        items = inner if len(inner) > 1 else items
    items = items if items[-1] else items[:-1]
    if "" in items:
        raise TypeError(f"{text!r} has an empty item")
    return items


def _at_commas(text: str) -> list[str]:
    """Split a text at commas outside brackets."""
    items, open_brackets = [""], ""
    for character in re.findall(r"\\.|.", text, re.DOTALL):  # an escaped character is text
        if open_brackets.endswith("["):  # of a list, or of a set of a regular expression
            open_brackets = open_brackets[:-1] if character == "]" else open_brackets
        elif character in "([{":
            open_brackets += character
        elif character in ")]}":
            open_brackets = open_brackets[:-1]
        if character == "," and not open_brackets:
            items.append("")
        else:
            items[-1] += character
    return [item.strip() for item in items]


def check(value: Any, hint: Any, field: str, parsing: bool = False) -> Any:
    """`coerce`, or `parse` if `parsing`, with an `InputError` instead of a `TypeError`."""
    try:
        return parse(value, hint) if parsing else coerce(value, hint)
    except TypeError as error:
        raise InputError(f"{field}: {error}") from None


def _is_exactly(value: Any, hint: Any) -> bool:
    origin = typing.get_origin(hint) or hint
    return isinstance(origin, type) and type(value) is origin
