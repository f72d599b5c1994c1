"""Mapping tables: which array of a reference is which array here.

A table is a list of rules. A rule pairs names there with paths here, `{}` standing for a whole
number that is the same on both sides, and says how the arrays change:

    one("layer{}.{}.conv{}.weight", "params/layer{}_{}/conv{}/kernel", CONV)

Read from left to right it loads, from right to left it exports, so that one table serves both. A
rule may name several arrays on either side: a fused projection that is three arrays elsewhere, or
stacked layers that are one.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from cv_jax.interop.transforms import CONV, LINEAR, SAME, Transform


class Rule(NamedTuple):
    """Arrays that belong together; with numbers filled in, or with `{}` in their place.

    Attributes:
      theirs: names of the reference's arrays.
      ours: paths here, `params/…` or `batch_stats/…`.
      transform: takes the arrays of one side, in this order, to those of the other.
    """

    theirs: tuple[str, ...]
    ours: tuple[str, ...]
    transform: Transform


class Family(NamedTuple):
    """One architecture as one source writes it.

    Attributes:
      source: one of `weights.SOURCES`.
      references: the source's name → (the registry's name, fields that differ from its defaults).
      rules: the mapping table.
      ignored: patterns of the source's keys that hold nothing learnt: left out when loading.
      fixed: the model → those of the ignored arrays that the source's files hold and its loader
        asks for: added when exporting.
      renamed: a file's arrays → the same under the table's names, where files differ in names.
    """

    source: str
    references: dict[str, tuple[str, dict[str, Any]]]
    rules: list[Rule]
    ignored: tuple[str, ...] = ()
    fixed: Callable[[Any], dict[str, np.ndarray]] = lambda model: {}
    renamed: Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]] = dict


def one(theirs: str, ours: str, transform: Transform = SAME) -> Rule:
    """A rule for a single array on both sides."""
    return Rule((theirs,), (ours,), transform)


def conv(theirs: str, ours: str, *, bias: bool) -> list[Rule]:
    """The filter of a convolution, and its bias if it has one."""
    kernel = one(f"{theirs}.weight", f"params/{ours}/kernel", CONV)
    return [kernel, one(f"{theirs}.bias", f"params/{ours}/bias")] if bias else [kernel]


def linear(theirs: str, ours: str, transform: Transform = LINEAR) -> list[Rule]:
    """The matrix of a linear layer and its bias."""
    return [
        one(f"{theirs}.weight", f"params/{ours}/kernel", transform),
        one(f"{theirs}.bias", f"params/{ours}/bias"),
    ]


def norm(theirs: str, ours: str) -> list[Rule]:
    """Scale and shift of a normalisation without running averages."""
    return [
        one(f"{theirs}.weight", f"params/{ours}/scale"),
        one(f"{theirs}.bias", f"params/{ours}/bias"),
    ]


def batch_norm(theirs: str, ours: str) -> list[Rule]:
    """Scale, shift and both running averages."""
    return [
        *norm(theirs, ours),
        one(f"{theirs}.running_mean", f"batch_stats/{ours}/mean"),
        one(f"{theirs}.running_var", f"batch_stats/{ours}/var"),
    ]


def fill_in(rules: Iterable[Rule], paths: Iterable[str]) -> tuple[list[Rule], list[str]]:
    """Applies a table to the paths of a model.

    For each path the first rule is taken that names it and whose other paths the model has too.

    Returns:
      `(rules with their numbers filled in, paths that no rule names)`.
    """
    paths = list(paths)
    known, named = set(paths), set()
    filled, nameless = [], []
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
            nameless.append(path)
    return filled, nameless


def _pattern(template: str) -> re.Pattern:
    return re.compile(r"(\d+)".join(map(re.escape, template.split("{}"))))
