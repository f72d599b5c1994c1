"""Finds the arrays of a network among all arrays of a training checkpoint.

Training scripts put the network into dictionaries (`state_dict`, `model_ema`) and under prefixes
(`module.`, `_orig_mod.`, `backbone.`), beside optimiser states and other networks. Both are parts
of an array's name here (see `tensors.py`), so the network is where most names of its table are.
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping

import numpy as np

from cv_jax.errors import InputError
from cv_jax.interop.tables import Family

# Parts of a name that stand for averaged weights.
_AVERAGED = re.compile(r"(.*[./_])?(ema|swa|averaged?|teacher)([./_].*)?")


_COUNTERS = ("n_averaged", "num_batches_tracked")  # count steps; no network needs them


def unwrapped(
    state_dict: Mapping[str, np.ndarray],
    table: Family,
    place: str,
    report: Callable[[str], None],
) -> dict[str, np.ndarray]:
    """Return the arrays of one network without their common prefix.

    Of a network and its average the average is taken, as of a run directory.

    Args:
      state_dict: all arrays of a checkpoint.
      table: the network's mapping table.
      place: the checkpoint, for messages.
      report: called with one sentence for each choice.

    Raises:
      InputError: the checkpoint has several networks, and no single average.
    """
    prefixes = _prefixes(state_dict, table)
    if not prefixes:
        return dict(state_dict)
    prefix = prefixes[0]
    if len(prefixes) > 1:
        averaged = [p for p in prefixes if _AVERAGED.fullmatch(p)]
        names = {p: f"{place}#{p.rstrip('./')}" for p in prefixes}
        if len(averaged) != 1:
            raise InputError(
                f"{place} holds several networks; choose {' or '.join(names.values())}"
            )
        prefix = averaged[0]
        others = " or ".join(name for p, name in names.items() if p != prefix)
        report(f"the averaged weights in {prefix.rstrip('./')} are used; others: {others}")
    arrays = {k.removeprefix(prefix): x for k, x in state_dict.items() if k.startswith(prefix)}
    # Other arrays of the innermost dictionary, such as a classifier outside of `backbone.`.
    dictionary = prefix[: prefix.rfind("/") + 1]
    beside = [
        key
        for key in state_dict
        if key.startswith(dictionary)
        and "/" not in key.removeprefix(dictionary)
        and not key.startswith(tuple(prefixes))
        and not key.endswith(_COUNTERS)
    ]
    if beside:
        more = f" and {len(beside) - 3} more" if len(beside) > 3 else ""
        report(f"left out beside {prefix.rstrip('./')}: {', '.join(beside[:3])}{more}")
    return arrays


def _prefixes(state_dict: Mapping[str, np.ndarray], table: Family) -> list[str]:
    """Return the prefixes of all networks of this kind, the most complete first.

    A prefix ends with "." or "/" or is empty. A part of a network is not a network.
    """
    known = {_without_numbers(name) for rule in table.rules for name in rule.theirs}
    counts = Counter()
    for key in state_dict:
        for start in (0, *(match.end() for match in re.finditer("[./]", key))):
            (name,) = table.renamed({key[start:]: state_dict[key]}) or ("",)
            if _without_numbers(name) in known:
                counts[key[:start]] += 1
    found = sorted(counts, key=lambda prefix: (-counts[prefix], len(prefix)))
    whole = []
    for prefix in found:
        nested = any(prefix.startswith(p) or p.startswith(prefix) for p in whole)
        if not nested and 2 * counts[prefix] >= counts[found[0]]:
            whole.append(prefix)
    return whole


def _without_numbers(name: str) -> str:
    return re.sub(r"\d+|\{\}", "#", name)
