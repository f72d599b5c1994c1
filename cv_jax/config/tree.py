"""The config tree: defaults, flat names, digest, and the difference between two configs.

A config is a locked `ml_collections.ConfigDict`. Its fields are those of `fields.py` plus the
fields of the chosen model under `config.model`.
"""

import hashlib
import json
import typing
from typing import Any

import ml_collections

from cv_jax import models
from cv_jax.config.fields import FIELDS
from cv_jax.config.presets import PRESETS
from cv_jax.config.values import check
from cv_jax.errors import InputError, did_you_mean


def default(dataset: str = "digits", model: str = "vit_b16") -> ml_collections.ConfigDict:
    """A locked config of that dataset and model with every field at its default.

    Image size, normalisation and splits start from `data.presets` where the dataset is listed.

    `num_classes` and `image_size` are no fields of `config.model`: the dataset and
    `config.image_size` give them.
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
    tree.data.name = dataset
    for name, value in PRESETS.get(dataset.partition(":")[0], {}).items():
        set_value(tree, name, value)
    return tree.lock()


def set_value(config: ml_collections.ConfigDict, name: str, value: Any) -> None:
    """Sets the field of that dotted name; its type is not checked."""
    *parents, leaf = name.split(".")
    for parent in parents:
        config = config[parent]
    config[leaf] = value


def flatten(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Dotted name → value."""
    flat: dict[str, Any] = {}
    for key in config:
        value = config[key]
        if isinstance(value, ml_collections.ConfigDict):
            flat.update({f"{key}.{name}": leaf for name, leaf in flatten(value).items()})
        else:
            flat[key] = value
    return flat


def restore(values: dict[str, Any]) -> ml_collections.ConfigDict:
    """The config that `flatten` made these values of, as a run directory's `config.json` has them.

    Fields that were added since have their defaults; those that are gone are left out.

    Raises:
      InputError: its model is not known here, or a value is none of its field's type.
    """
    config = default(values["data.name"], values["model.name"])
    for name in flatten(config).keys() & values.keys():
        value = values[name]
        value = tuple(value) if isinstance(value, list) else value  # JSON knows no tuples
        if name != "model.name":
            set_value(config, name, check(value, type_of(config, name), f"config.{name}"))
    return config


def kind(name: str) -> str:
    """The field's kind: "result", "evaluation" or "run"."""
    return "result" if name.startswith("model.") else FIELDS[name].kind


def digest(config: ml_collections.ConfigDict) -> str:
    """Eight hexadecimal digits that name the values of all result fields."""
    values = {name: value for name, value in flatten(config).items() if kind(name) == "result"}
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:8]


def difference(
    old: dict[str, Any],
    new: ml_collections.ConfigDict,
    kinds: tuple[str, ...] = ("result", "evaluation"),
) -> list[str]:
    """One line for each field of these kinds that differs from the flat values of a run's start.

    A field that the older run did not know counts as its default there.
    """
    lines, now = [], flatten(new)
    defaults = flatten(default(model=now["model.name"]))
    for name in sorted({*old, *now}):
        if name in now and kind(name) not in kinds:
            continue
        then, value = old.get(name, defaults.get(name)), now.get(name)
        if json.dumps(then) != json.dumps(value):
            lines.append(f"config.{name}: {then!r} there, {value!r} now")
    return lines


def type_of(config: ml_collections.ConfigDict, name: str) -> Any:
    if name in FIELDS:
        return FIELDS[name].type
    if name == "model.name":
        raise InputError(
            "config.model.name: the fields of config.model follow from it, so that it is given "
            "before them: --config FILE:DATASET,model=NAME"
        )
    known = flatten(config)
    if name not in known:
        group = [field for field in known if field.startswith(f"{name}.")]
        if group:
            raise InputError(f"config.{name} is a group; set one of {', '.join(group)}")
        if name in ("model.num_classes", "model.image_size"):
            raise InputError(f"config.{name} is no field: the data and config.image_size give it")
        raise InputError(f"config.{name} is no field{did_you_mean(name, known, 'config.')}")
    module = models.MODELS[config.model.name].module
    return typing.get_type_hints(module)[name.removeprefix("model.")]
