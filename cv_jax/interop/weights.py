"""Strict loading and exporting of weights with mapping tables."""

import difflib
import logging
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from cv_jax import models
from cv_jax.errors import InputError
from cv_jax.interop import (
    big_vision,
    convolutional,
    hugging_face,
    swin_transformer,
    vision_transformer,
)
from cv_jax.interop.resize import Trained, fits_resized, may_be_resized
from cv_jax.interop.tables import Family, Rule, fill_in
from cv_jax.interop.target import (
    HEAD,
    STEMS,
    Target,
    adapt,
    check,
    flatten,
    trained_with,
    unflatten,
)

# Layouts of `export`.
TARGETS = ("torchvision", "timm", "mae", "swin", "dinov2", "big_vision")
SOURCES = (*TARGETS, hugging_face.SOURCE)  # layouts of `load`
FAMILIES: tuple[Family, ...] = (
    *convolutional.FAMILIES,
    *vision_transformer.FAMILIES,
    *big_vision.FAMILIES,
    *swin_transformer.FAMILIES,
    *hugging_face.FAMILIES,
)

# PyTorch's batch norm counts batches, but uses the count only for cumulative averages.
COUNTER = "num_batches_tracked"

ImageSize = int | tuple[int, int] | None

_log = logging.getLogger(__name__)


def family(model_name: str, source: str) -> Family:
    """Return the mapping table of a model in the layout of a source.

    Raises:
      InputError: the source is unknown, or has no such model.
    """
    if source not in SOURCES:
        raise InputError(f"unknown source {source!r}; allowed: {', '.join(SOURCES)}")
    known = []
    for candidate in FAMILIES:
        if candidate.source == source:
            names = [*(model for model, _ in candidate.references.values()), *candidate.models]
            if model_name in names:
                return candidate
            known += names
    raise InputError(
        f"{source} has no counterpart of model {model_name!r}; it has "
        f"{', '.join(dict.fromkeys(known)) or 'no model of cv_jax'}"
    )


def reference(source: str, name: str) -> tuple[str, dict[str, Any]]:
    """Return the registry's name of a source's network, and the fields it needs.

    A tag of the weights after a dot, such as "resnet50.a1_in1k", is ignored.

    Raises:
      InputError: the source is unknown, or no model here corresponds to `name`.
    """
    known = {}
    for candidate in FAMILIES:
        if candidate.source == source:
            known.update(candidate.references)
    bare = name.partition(".")[0]
    if bare not in known:
        nearest = difflib.get_close_matches(bare, known, 5) or list(known)[:5]
        raise InputError(
            f"no cv_jax model corresponds to {source}'s {name!r}; the nearest known are "
            f"{', '.join(nearest)}; --model names a model that computes the same"
        )
    return known[bare]


def layer_names(model_name: str, source: str, paths: Iterable[str]) -> dict[str, Any]:
    """Return the source's names of PyTorch modules in a model with these paths.

    Returns:
      `first_conv`, and `classifier` if the model has one: a name, or a list of two.
    """
    rules = family(model_name, source).rules
    stems, _ = fill_in(rules, [path for path in STEMS if path in paths])
    heads, _ = fill_in(rules, sorted(p for p in paths if re.fullmatch(r"params/head\w*/bias", p)))
    stems, heads = ([r.theirs[0].rpartition(".")[0] for r in found] for found in (stems, heads))
    classifier = {"classifier": heads[0] if len(heads) == 1 else heads} if heads else {}
    return {"first_conv": stems[0], **classifier}


def load(
    model_name: str,
    source: str,
    state_dict: Mapping[str, np.ndarray],
    *,
    image_size: ImageSize = None,
    num_classes: int | None = None,
    in_channels: int | None = None,
    seed: int = 0,
    report: Callable[[str], None] = _log.warning,
    trained: Trained | None = None,
    **fields: Any,
) -> dict[str, Any]:
    """Return the variables of a model from a reference's weights.

    Args:
      model_name: the registry's name.
      source: layout of the weights, one of `SOURCES`.
      state_dict: the reference's name → numpy array.
      image_size: side or (height, width) of the model's input; default: the model's own.
      num_classes: default: as in the weights, 0 if they have no classifier. Another number replaces
        the classifier by a new one, initialised from `seed`; 0 drops the classifier.
      in_channels: input channels; default: as in the weights. Another number adapts the first
        kernel, see `target.input_channels`.
      seed: of a new classifier's initialisation.
      report: called with one sentence for each change to the weights.
      trained: how the weights were trained, for positions and bias tables; see `resize.resize`.
      **fields: further fields of the model.

    Returns:
      `{"params": …}`, and `"batch_stats"` if the model has them: numpy arrays in the dtypes of the
      model's variables.

    Raises:
      InputError: the source has no such model, or keys are missing, unexpected or misshapen; one
        message lists all of them.
    """
    table = family(model_name, source)
    renamed = table.renamed(state_dict)
    state_dict = _without_other_parts(table, renamed, report)
    trained_classes, trained_channels = read_trained_with(table, state_dict)

    if num_classes is None:
        num_classes = trained_classes or None
        head = _head_keys(table)
        if head and state_dict.keys().isdisjoint(head):
            num_classes = 0
            report("the weights have no classifier")
    if num_classes is not None:
        fields["num_classes"] = num_classes
    channels = in_channels or trained_channels
    target = Target(model_name, image_size=image_size, in_channels=channels, **fields)
    _check_constants(model_name, renamed, table.fixed(target.model))

    # Expected shapes: the target's, with the classes and channels of the weights.
    shapes = {path: x.shape for path, x in target.shapes.items()}
    for path, shape in list(shapes.items()):
        if HEAD.fullmatch(path):
            shapes[path] = (*shape[:-1], trained_classes or shape[-1])
            if not trained_classes and num_classes is not None:
                del shapes[path]
        elif path in STEMS:
            shapes[path] = (*shape[:2], trained_channels or shape[2], shape[3])
    if num_classes == 0:
        state_dict = {key: x for key, x in state_dict.items() if key not in _head_keys(table)}
    rules = _rules(table, shapes, model_name)
    shapes.update(_trained_sizes(rules, shapes, state_dict))
    check(
        f"the weights do not fit {model_name} in the layout of {source}",
        {key: np.shape(x) for key, x in state_dict.items()},
        _expected(rules, shapes),
    )
    fitted, notes = adapt(_load(rules, state_dict), target, seed, source, trained)
    if num_classes == 0 and trained_classes:
        notes.append(f"classifier of {trained_classes} classes dropped")
    for note in notes:
        report(note)
    return unflatten(fitted)


def export(
    model_name: str,
    source: str,
    variables: Mapping[str, Any],
    *,
    image_size: ImageSize = None,
    **fields: Any,
) -> dict[str, np.ndarray]:
    """Return a model's variables as the reference's weights: the exact inverse of `load`.

    Args:
      model_name: the registry's name.
      source: layout of the result, one of `TARGETS`.
      variables: all variables of the model; classes and input channels are read from the arrays.
      image_size: side or (height, width) of the model's input; default: the model's own.
      **fields: fields of the model.

    Returns:
      The reference's name → numpy array. PyTorch's batch counters are zero; a strict
      `load_state_dict` accepts the result.

    Raises:
      InputError: the source has no such model, or the variables do not fit the model; one message
        lists all differences.
    """
    if source == hugging_face.SOURCE:
        raise InputError(f"weights are read, not written, in the layout of {source}")
    table = family(model_name, source)
    arrays = {path: np.asarray(x) for path, x in flatten(variables).items()}
    shapes = {path: x.shape for path, x in arrays.items()}
    classes, channels = trained_with(arrays)
    if "num_classes" in models.fields(model_name):
        fields.setdefault("num_classes", classes)
    target = Target(model_name, image_size=image_size, in_channels=channels, **fields)
    expected = {path: x.shape for path, x in target.shapes.items()}
    check(f"the variables do not fit {model_name}", shapes, expected)

    state_dict = {}
    for rule in _rules(table, shapes, model_name):
        for key, x in _export(rule, arrays).items():
            state_dict[key] = np.asarray(x, order="C")
    for key in list(state_dict):
        layer, _, name = key.rpartition(".")
        if name == "running_var":
            state_dict[f"{layer}.{COUNTER}"] = np.zeros((), np.int64)
    return {**state_dict, **table.fixed(target.model)}


def _rules(table: Family, shapes: Mapping[str, tuple], model_name: str) -> list[Rule]:
    """Return the table's rules for all paths of a model."""
    rules, unmatched = fill_in(table.rules, shapes)
    if unmatched:
        raise InputError(
            f"{table.source} has no counterpart of {', '.join(unmatched)} of model {model_name!r}"
        )
    return rules


def _trained_sizes(
    rules: list[Rule], shapes: Mapping[str, tuple], state_dict: Mapping[str, np.ndarray]
) -> dict[str, tuple]:
    """Return the source's shapes of arrays that can be resampled to the target's shapes."""
    expected, sizes = _expected(rules, shapes), {}
    for rule in rules:
        ranks = [np.ndim(state_dict.get(key)) for key in rule.theirs]
        alike = ranks == [len(expected[key]) for key in rule.theirs]
        if alike and any(map(may_be_resized, rule.ours)):
            loaded = rule.transform.load(*(np.asarray(state_dict[key]) for key in rule.theirs))
            for path, array in zip(rule.ours, loaded, strict=True):
                if may_be_resized(path) and fits_resized(path, array.shape, shapes[path]):
                    sizes[path] = array.shape
    return sizes


def _without_other_parts(
    table: Family, state_dict: Mapping[str, np.ndarray], report: Callable[[str], None]
) -> dict[str, np.ndarray]:
    """Return the arrays with learnt values, without the parts that the model does not have."""
    ignored = re.compile("|".join([rf".*\.{COUNTER}", *table.ignored]))
    state_dict = {key: x for key, x in state_dict.items() if not ignored.fullmatch(key)}
    dropped = re.compile("|".join(table.dropped))
    parts = {key for key in state_dict if dropped.fullmatch(key)}
    if parts:
        report(f"{', '.join(sorted({key.partition('.')[0] for key in parts}))} dropped")
    return {key: x for key, x in state_dict.items() if key not in parts}


def _check_constants(
    model_name: str, state_dict: Mapping[str, np.ndarray], fixed: Mapping[str, np.ndarray]
) -> None:
    """Raise an InputError if constants of the weights are not those of the model."""
    for key, expected in fixed.items():
        given = np.asarray(state_dict.get(key, expected))
        if given.shape == expected.shape and not np.allclose(given, expected, atol=1e-2):
            raise InputError(
                f"the weights do not fit {model_name}: {key} has other values than the model's "
                "fixed table"
            )


def _load(rules: list[Rule], state_dict: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    arrays = {}
    for rule in rules:
        inputs = (np.asarray(state_dict[key]) for key in rule.theirs)
        arrays.update(zip(rule.ours, rule.transform.load(*inputs), strict=True))
    return arrays


def _export(rule: Rule, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    inputs = [arrays[path] for path in rule.ours]
    try:
        outputs = rule.transform.export(*inputs)
    except ValueError:
        got = " and ".join(f"{path} {arrays[path].shape}" for path in rule.ours)
        raise InputError(f"{got} cannot be written as {' and '.join(rule.theirs)}") from None
    return dict(zip(rule.theirs, outputs, strict=True))


def _expected(rules: list[Rule], shapes: Mapping[str, tuple]) -> dict[str, tuple]:
    """Return the shapes of the source's arrays, by exporting broadcast zeros."""
    zeros = {path: np.broadcast_to(np.float32(0), shape) for path, shape in shapes.items()}
    return {key: x.shape for rule in rules for key, x in _export(rule, zeros).items()}


def read_trained_with(
    table: Family, state_dict: Mapping[str, np.ndarray]
) -> tuple[int, int | None]:
    """Return the source's classes and input channels, as `target.trained_with` does."""
    rules, _ = fill_in(table.rules, ("params/head/bias", *STEMS))
    rules = [
        rule
        for rule in rules
        if np.ndim(state_dict.get(rule.theirs[0])) == (1 if HEAD.fullmatch(rule.ours[0]) else 4)
    ]
    return trained_with(_load(rules, state_dict))


def _head_keys(table: Family) -> set[str]:
    return {key for rule in table.rules if HEAD.fullmatch(rule.ours[0]) for key in rule.theirs}
