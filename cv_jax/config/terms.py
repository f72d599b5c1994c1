"""Strings of the form `name(literal, key=literal)|name|…`, read without evaluating code."""

import ast
import re
from typing import Any, NamedTuple

from cv_jax.errors import InputError

MOST = 100  # terms in a string: each one is compiled
# A quoted string, a separator, or any other character.
_PIECES = re.compile(r"""'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*"|.""", re.DOTALL)


class Term(NamedTuple):
    """One `name(…)` of a string.

    Attributes:
      name: the name before the parenthesis.
      args: values of the positional arguments.
      kwargs: values of the keyword arguments.
      text: the term as the user wrote it.
    """

    name: str
    args: list[Any]
    kwargs: dict[str, Any]
    text: str


def parse_terms(string: str, field: str) -> list[Term]:
    """Parse `name(literal, key=literal)|name|…`; empty terms are ignored.

    Args:
      string: the text; may be empty.
      field: name of the config field, for error messages.

    Raises:
      InputError: a term is malformed, or the string has more than `MOST` terms.
    """
    parts = [""]
    for piece in _PIECES.findall(string):
        if piece == "|":
            parts.append("")
        else:
            parts[-1] += piece
    texts = [part.strip() for part in parts if part.strip()]
    if len(texts) > MOST:
        raise InputError(f"{field}: {len(texts)} terms; at most {MOST} are possible")
    return [_parse_term(text, field) for text in texts]


def _parse_term(text: str, field: str) -> Term:
    try:
        node = ast.parse(text, mode="eval").body
        if isinstance(node, ast.Name):
            return Term(node.id, [], {}, text)
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
            raise ValueError
        names = [keyword.arg for keyword in node.keywords]
        if None in names or len(set(names)) < len(names):  # `**literal`, or a name given twice
            raise ValueError
        args = [ast.literal_eval(arg) for arg in node.args]
        kwargs = {keyword.arg: ast.literal_eval(keyword.value) for keyword in node.keywords}
        return Term(node.func.id, args, kwargs, text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        raise InputError(
            f"{field}: {text!r} is not of the form name or name(literal, key=literal)"
        ) from None
