"""What identifies a run, and what else may change its bits: comparison with its earlier starts.

A run is identified by the values of its result fields, its data, its teacher and its initial
weights. A field that names a place is not part of it: what is in the place has a digest, and may
move.
"""

import collections
import math
from collections.abc import Collection, Iterable, Iterator
from typing import Any

import ml_collections

from cv_jax import config as configs
from cv_jax.config.fields import FIELDS
from cv_jax.data import fingerprint as data_fingerprint
from cv_jax.run import provenance

# Part of the fingerprint → the field that names its place.
PLACES = {"train": "data.name", "teacher": "distill.teacher"}


def other_config(
    old: dict[str, Any],
    starts: list[dict[str, Any]],
    config: ml_collections.ConfigDict,
    kinds: tuple[str, ...],
    compared: Collection[str],
) -> list[str]:
    """Return one line for each field that makes a config the config of another run.

    Args:
      old: the flat config of the first start.
      starts: the starts of the run.
      config: the new config.
      kinds: kinds of fields to compare.
      compared: fields whose places may differ, because the caller compares what is in the places.
    """
    known = {PLACES[part] for part in (starts[-1]["data"] if starts else ()) if part in PLACES}
    if initial_weights(starts) is not None:
        known.add("init_from")
    given = configs.flatten(config)
    # A run with a teacher or initial weights differs from a run without.
    both = {name for name in known if old.get(name) is not None and given[name] is not None}
    return configs.difference(old, given, kinds, both & set(compared))


def contradictions(config: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Return one line for each result field with two values in two flat configs of one run.

    A field that only one of them has is not compared, and neither is a field that names a place.
    """
    places = {*PLACES.values(), "init_from"}
    return [
        f"{name}: {config[name]!r} and {other[name]!r}"
        for name in sorted((config.keys() & other.keys()) - places)
        if config[name] != other[name] and _decides(name)
    ]


def _decides(name: str) -> bool:
    """Whether this is a result field, also of a model that this version does not know."""
    return name.startswith("model.") or (name in FIELDS and FIELDS[name].kind == "result")


def other_data(starts: list[dict[str, Any]], fingerprint: dict[str, Any]) -> list[str]:
    """Return one line for each value of the fingerprint that differs from that of the last start.

    Args:
      starts: the starts of the run.
      fingerprint: identity of the data, the teacher and, with `mesh.step=pmap`, the devices.
    """
    before = starts[-1]["data"] if starts else {}
    return [
        f"{part}.{key}: was {before[part].get(key)!r}, is now {values[key]!r}"
        for part, values in fingerprint.items()
        if part in before
        for key in data_fingerprint.differing(before[part], values)
    ]


def initial_weights(starts: list[dict[str, Any]]) -> str | None:
    """Return the digest of the weights from `config.init_from`; `None` if no start has it."""
    found = (start.get("init_from") for start in starts)
    return next(filter(None, found), None)


def other_conditions(starts: list[dict[str, Any]], now: dict[str, Any]) -> str:
    """Say in which conditions the earlier starts differ from a new one; "" if in none.

    The text follows the name of the run.

    Args:
      starts: the earlier starts, in order.
      now: the new start.
    """
    lines: dict[str, None] = {}
    for start in _kept(starts, now["step"]):
        lines.update(dict.fromkeys(provenance.differences(start, now)))
    if not lines:
        return ""
    return f"was trained in other conditions, which may change its bits: {'; '.join(lines)}"


def mixed_conditions(runs: Iterable[list[dict[str, Any]]]) -> str:
    """Say in which conditions runs differ, compared with the first one; "" if in none.

    Args:
      runs: the starts of each run; only one of them is held in memory beside the first.
    """
    first, total, found = None, 0, collections.Counter()
    for starts in runs:
        for start in _kept(starts):
            first = start if first is None else first
            total += 1
            found.update(provenance.differences(first, start))
    return "; ".join(f"{line} ({count} of {total} starts)" for line, count in found.items())


def _kept(starts: list[dict[str, Any]], step: float = math.inf) -> Iterator[dict[str, Any]]:
    """Yield the starts, the last one first, whose updates are in the state after `step` updates.

    A start without a checkpoint is not among them: the next start has the same step.
    """
    for start in reversed(starts):
        if start["step"] < step:
            step = start["step"]
            yield start
