"""Mapping tables between the arrays of a reference and the arrays of a model here.

A table is a list of rules. A rule pairs reference names with paths here and has the transform
between their arrays; `{}` is an integer that is equal on both sides:

    one("layer{}.{}.conv{}.weight", "params/layer{}_{}/conv{}/kernel", CONV)

Loading applies a rule from left to right, exporting from right to left. A rule may name several
arrays on either side, such as a fused projection for three arrays, or stacked layers.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from cv_jax.interop.transforms import CONV, LINEAR, SAME, Transform


class Rule(NamedTuple):
    """Corresponding arrays; names have numbers, or `{}` in place of each number.

    Attributes:
      theirs: names of the reference's arrays.
      ours: paths here, `params/…` or `batch_stats/…`.
      transform: converts the arrays of one side, in this order, to the arrays of the other.
    """

    theirs: tuple[str, ...]
    ours: tuple[str, ...]
    transform: Transform


class Family(NamedTuple):
    """One architecture in the layout of one source.

    Attributes:
      source: one of `weights.SOURCES`.
      references: the source's name → (the registry's name, fields that differ from its defaults).
      rules: the mapping table.
      models: further names in the registry, of networks that the source builds without a name.
      ignored: patterns of the source's keys without learnt values; not loaded.
      dropped: patterns of keys of parts that the model does not have; not loaded, with a note.
      fixed: model → ignored arrays that the source's loader requires; added when exporting.
      renamed: maps the arrays of a file to the table's names, for files with other names.
    """

    source: str
    references: dict[str, tuple[str, dict[str, Any]]]
    rules: list[Rule]
    models: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    fixed: Callable[[Any], dict[str, np.ndarray]] = lambda model: {}
    renamed: Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]] = dict


def one(theirs: str, ours: str, transform: Transform = SAME) -> Rule:
    """A rule for one array on each side."""
    return Rule((theirs,), (ours,), transform)


def conv(theirs: str, ours: str, *, bias: bool) -> list[Rule]:
    """Rules for the kernel of a convolution and, if `bias`, its bias."""
    kernel = one(f"{theirs}.weight", f"params/{ours}/kernel", CONV)
    return [kernel, one(f"{theirs}.bias", f"params/{ours}/bias")] if bias else [kernel]


def linear(theirs: str, ours: str, transform: Transform = LINEAR) -> list[Rule]:
    """Rules for the matrix and the bias of a linear layer."""
    return [
        one(f"{theirs}.weight", f"params/{ours}/kernel", transform),
        one(f"{theirs}.bias", f"params/{ours}/bias"),
    ]


def norm(theirs: str, ours: str) -> list[Rule]:
    """Rules for scale and shift of a normalisation without running averages."""
    return [
        one(f"{theirs}.weight", f"params/{ours}/scale"),
        one(f"{theirs}.bias", f"params/{ours}/bias"),
    ]


def batch_norm(theirs: str, ours: str) -> list[Rule]:
    """Rules for scale, shift and both running averages."""
    return [
        *norm(theirs, ours),
        one(f"{theirs}.running_mean", f"batch_stats/{ours}/mean"),
        one(f"{theirs}.running_var", f"batch_stats/{ours}/var"),
    ]


def fill_in(rules: Iterable[Rule], paths: Iterable[str]) -> tuple[list[Rule], list[str]]:
    """Apply a table to the paths of a model.

    A path gets the first rule that names it and whose other paths the model has too.

    Returns:
      `(rules with their numbers filled in, paths without a rule)`.
    """
    paths = list(paths)
    known, named = set(paths), set()
    filled, unmatched = [], []
    compiled = [(rule, [_pattern(template) for template in rule.ours]) for rule in rules]
    for path in paths:
        if path in named:
            continue
        for rule, patterns in compiled:
            match = next(filter(None, (pattern.fullmatch(path) for pattern in patterns)), None)
            if match is None:
                continue
            numbers = match.groups()
            theirs = tuple(template.format(*numbers) for template in rule.theirs)
            ours = tuple(template.format(*numbers) for template in rule.ours)
            if known.issuperset(ours):
                filled.append(Rule(theirs, ours, rule.transform))
                named.update(ours)
                break
        else:
            unmatched.append(path)
    return filled, unmatched


def _pattern(template: str) -> re.Pattern:
    return re.compile(r"(\d+)".join(map(re.escape, template.split("{}"))))
