"""The config tree: defaults, dotted names, digest, and the difference between two configs.

A config is a locked `ml_collections.ConfigDict`. It has the fields of `fields.py`, and the fields
of the chosen model under `config.model`.
"""

import copy
import hashlib
import json
import typing
from collections.abc import Collection, Mapping
from typing import Any

import ml_collections

from cv_jax import models
from cv_jax.config.fields import FIELDS
from cv_jax.config.presets import PRESETS
from cv_jax.config.values import check, tuples
from cv_jax.errors import InputError, did_you_mean

# Fields whose value may be that of the initial weights.
NORMALISATION = ("data.mean", "data.std")


def default(dataset: str = "digits", model: str = "vit_b16") -> ml_collections.ConfigDict:
    """Return a locked config of a dataset and a model with the default of every field.

    For a dataset in `presets.PRESETS`, the preset replaces defaults such as the image size. The
    model has default rules for its parameters without weight decay; see `Entry.undecayed`. Mean and
    standard deviation of the pixels have no value: a value is a statement of the config file.

    `num_classes` and `image_size` are not fields of `config.model`: their values come from the
    dataset and from `config.image_size`.
    """
    tree = ml_collections.ConfigDict(type_safe=False)
    for field in FIELDS.values():
        *parents, leaf = field.name.split(".")
        node = tree
        for parent in parents:
            if parent not in node:
                node[parent] = ml_collections.ConfigDict(type_safe=False)
            node = node[parent]
        node[leaf] = field.default
    try:
        model_fields = models.fields(model)
    except ValueError as error:
        raise InputError(f"config.model.name: {error}") from None
    tree.model = ml_collections.ConfigDict({"name": model}, type_safe=False)
    for name, value in model_fields.items():
        if name not in ("num_classes", "image_size"):
            tree.model[name] = value
    undecayed = models.MODELS[model].undecayed
    if undecayed is not None:
        tree.optim.rules = (f".*({undecayed}): decay=0",)
    tree.data.name = dataset
    for name, value in PRESETS.get(dataset.partition(":")[0], {}).items():
        if name not in NORMALISATION:
            set_value(tree, name, value)
    return tree.lock()


def states_normalisation(config: ml_collections.ConfigDict) -> bool:
    """Whether a config states `data.mean` or `data.std`."""
    return any(config.data[name.removeprefix("data.")] is not None for name in NORMALISATION)


def with_normalisation(
    config: ml_collections.ConfigDict, values: Mapping[str, tuple[float, ...]] | None = None
) -> ml_collections.ConfigDict:
    """Return a copy in which `data.mean` and `data.std` have values.

    Args:
      config: the config; a stated value is kept.
      values: dotted name → value; default: the usual value of the dataset.
    """
    config = copy.deepcopy(config)
    preset = PRESETS.get(config.data.name.partition(":")[0], {})
    for name in NORMALISATION:
        if config.data[name.removeprefix("data.")] is None:
            set_value(config, name, (values or {}).get(name, preset.get(name, (0.5,))))
    return config


def decay_all(model: str) -> tuple[str, ...]:
    """Return `optim.rules` of a recipe that decays every kernel, bias and scale.

    A model with other parameters, such as positions, keeps its default rules.
    """
    return () if models.MODELS[model].undecayed is None else default(model=model).optim.rules


def set_value(config: ml_collections.ConfigDict, name: str, value: Any) -> None:
    """Set a field by its dotted name, without a type check."""
    *parents, leaf = name.split(".")
    for parent in parents:
        config = config[parent]
    config[leaf] = value


def flatten(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Return dotted name → value for every field."""
    flat: dict[str, Any] = {}
    for key, value in config.items(preserve_field_references=True):  # faster than looking them up
        if isinstance(value, ml_collections.FieldReference):
            value = value.get()
        if isinstance(value, ml_collections.ConfigDict):
            flat.update({f"{key}.{name}": leaf for name, leaf in flatten(value).items()})
        else:
            flat[key] = value
    return flat


def restore(values: dict[str, Any]) -> ml_collections.ConfigDict:
    """Return the config of flat values, such as the `config.json` of a run directory.

    A field without a value gets its default; a value without a field is ignored.

    Raises:
      InputError: the model is unknown, or a value does not have the type of its field.
    """
    config = default(values["data.name"], values["model.name"])
    for name in flatten(config).keys() & values.keys() - {"model.name"}:
        value = check(tuples(values[name]), type_of(config, name), f"config.{name}")
        set_value(config, name, value)
    return with_normalisation(config)


def kind(name: str) -> str:
    """Kind of a field: "result", "evaluation" or "run"."""
    return "result" if name.startswith("model.") else FIELDS[name].kind


def digest(config: ml_collections.ConfigDict) -> str:
    """Return eight hexadecimal digits of a hash over the result fields that differ from defaults.

    A field that a later version adds does not change it. After the change of a default, two
    configs with different values may have the same digest.
    """
    defaults = flatten(with_normalisation(default(config.data.name, config.model.name)))
    values = {
        name: value
        for name, value in flatten(with_normalisation(config)).items()
        if kind(name) == "result"
        and (name in ("data.name", "model.name") or not _equal(value, defaults[name]))
    }
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:8]


def difference(
    old: dict[str, Any],
    new: dict[str, Any],
    kinds: tuple[str, ...] = ("result", "evaluation"),
    ignored: Collection[str] = (),
) -> list[str]:
    """Return one line for each field whose value differs between two flat configs.

    Args:
      old: dotted name → stored value; a missing field counts as its default.
      new: dotted name → value of the new config.
      kinds: kinds of the fields to compare.
      ignored: names of fields that are not compared.
    """
    lines = []
    if new.keys() - old.keys():
        old = {**flatten(default(model=new["model.name"])), **old}
    pairs = {name: (old.get(name), new.get(name)) for name in {*old, *new} - set(ignored)}
    for name in sorted(name for name, (then, value) in pairs.items() if then != value):
        if name in new and kind(name) not in kinds:
            continue
        then, value = pairs[name]
        if not _equal(then, value):
            lines.append(f"config.{name}: was {then!r}, is now {value!r}")
    return lines


def _equal(a: Any, b: Any) -> bool:
    """Whether two values are equal as JSON, which has no tuples; 0 and 0.0 are equal."""
    return tuples(a) == tuples(b)


def type_of(config: ml_collections.ConfigDict, name: str) -> Any:
    """Return the type hint of a field that an override may set.

    Raises:
      InputError: the name is not a field, or it is `model.name`.
    """
    if name in FIELDS:
        return FIELDS[name].type
    if name == "model.name":
        raise InputError(
            "config.model.name decides the fields of config.model and cannot be overridden; "
            "use --config FILE:DATASET,model=NAME"
        )
    known = flatten(config)
    if name not in known:
        group = [field for field in known if field.startswith(f"{name}.")]
        if group:
            raise InputError(f"config.{name} is a group; set one of {', '.join(group)}")
        if name in ("model.num_classes", "model.image_size"):
            raise InputError(
                f"config.{name} is not a field: its value comes from the data or config.image_size"
            )
        raise InputError(f"config.{name} is not a field{did_you_mean(name, known, 'config.')}")
    module = models.MODELS[config.model.name].module
    return typing.get_type_hints(module)[name.removeprefix("model.")]
