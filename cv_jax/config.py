"""Configs: reading a file, typed overrides, and the difference between two runs.

The fields stand in `fields.py`, each with its default, type, kind and meaning.

A config file is Python with one function:

    def get_config(arg):
        dataset, options = config.parse_argument(arg, model="vit_b16")
        c = config.default(dataset=dataset, model=options["model"])
        c.optim.learning_rate = 3e-4
        return c

and is read by `load("configs/vit_b16.py:cifar10,model=vit_s16", {"optim.learning_rate": "1e-3"})`.
The result is a locked `ml_collections.ConfigDict` in which every value has the type stated there.
Mistakes raise `InputError`.

A field of kind "result" decides what a run computes: a run directory accepts no other value. One of
kind "evaluation" decides what is measured: it, too, stays while a run trains, but its checkpoints
may be evaluated with another value. A field of kind "run" may change at every restart.
"""

import contextlib
import difflib
import hashlib
import importlib.util
import json
import math
import traceback
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_collections

from cv_jax import models
from cv_jax.data.presets import PRESETS
from cv_jax.errors import InputError
from cv_jax.fields import FIELDS, UNITS
from cv_jax.values import check

FOREVER = 2**31  # steps: more than a device can count


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


def parse_argument(arg: str | None, **options: Any) -> tuple[str, dict[str, Any]]:
    """Reads `dataset,key=value,…`, the part of `--config=FILE:ARGUMENT` after the colon.

    Args:
      arg: that text; empty or none is the embedded dataset.
      **options: the keys that this config knows, with their defaults, whose types values take; a
        tuple holds all values that are allowed, the default first.

    Returns:
      The dataset's name ("digits" unless said) and all options with their values.
    """
    dataset = "digits"
    chosen = {k: v[0] if isinstance(v, tuple) else v for k, v in options.items()}
    for i, item in enumerate(filter(None, (arg or "").split(","))):
        key, equals, value = item.partition("=")
        if not equals and i == 0:
            dataset = item
        elif not equals or key not in options:
            allowed = ", ".join(f"{k}=…" for k in options) or "none"
            raise InputError(
                f"config argument {item!r} is not known{_nearest(key, options)}; "
                f"allowed: DATASET, then {allowed}"
            )
        else:
            where = f"config argument {item}"
            if isinstance(options[key], tuple) and value not in options[key]:
                allowed = ", ".join(options[key])
                raise InputError(f"{where}: {value!r} is not one of {allowed}")
            chosen[key] = check(value, type(chosen[key]), where, parsing=True)
    return dataset, chosen


def load(reference: str, overrides: dict[str, str] | None = None) -> ml_collections.ConfigDict:
    """Reads `FILE[:ARGUMENT]`, applies overrides, and checks every value's type.

    Args:
      reference: path of a config file, with an argument for its `get_config` after a colon.
      overrides: dotted field name → value as typed on the command line. Giving a duration in one
        unit replaces whatever unit the file used.

    Raises:
      InputError: no such file, a mistake inside it, an unknown field, a value of the wrong type.
    """
    path, _, argument = reference.partition(":")
    config = from_file(Path(path), argument)
    overrides = overrides or {}
    for name, text in overrides.items():
        value = check(text, _type_of(config, name), f"config.{name}={text}", parsing=True)
        siblings = other_units(name)
        # "none" takes back what the file says in any unit, not what is given beside it.
        if value is not None or overrides.keys().isdisjoint(siblings):
            for sibling in siblings:
                set_value(config, sibling, None)
        set_value(config, name, value)
    for name, value in flatten(config).items():
        if name != "model.name":
            set_value(config, name, check(value, _type_of(config, name), f"config.{name}"))
    _check_durations(config)
    return config


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
            set_value(config, name, check(value, _type_of(config, name), f"config.{name}"))
    return config


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


def steps_of(
    config: ml_collections.ConfigDict, name: str, examples: int, total_steps: int | None = None
) -> int | None:
    """A duration in whole steps (at least 1 unless it is 0), or none if no unit is given.

    Args:
      config: the run's config.
      name: the duration without its unit, such as "schedule.warmup".
      examples: size of the training split.
      total_steps: length of the training, for percents.
    """
    values = {unit: flatten(config).get(f"{name}_{unit}") for unit in UNITS}
    return in_steps(values, config.batch_size, examples, total_steps)


def in_steps(
    values: dict[str, float | None], batch_size: int, examples: int, total_steps: int | None
) -> int | None:
    """`steps_of`, of a duration given as unit → value; at most `FOREVER`."""
    for unit in UNITS:
        value = values[unit]
        if value is None:
            continue
        if unit == "percent":
            value = value / 100 * total_steps
        elif unit == "epochs":
            value = value * examples / batch_size
        elif unit == "examples":
            value = value / batch_size
        return max(1, round(min(value, FOREVER))) if value > 0 else 0
    return None


def run_file(path: Path) -> types.ModuleType:
    """The module that a config file makes.

    Raises:
      InputError: there is no such file, or a mistake inside it.
    """
    if not path.is_file():
        folder = path.parent
        found = [str(p) for p in sorted(folder.glob("*.py"))] if folder.is_dir() else []
        raise InputError(f"config file {path} does not exist{_nearest(str(path), found)}")
    spec = importlib.util.spec_from_file_location(f"cv_jax_config_{path.stem}", path)
    if spec is None:
        raise InputError(f"config file {path} is no Python file: its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    with mistakes_of(path):
        spec.loader.exec_module(module)
    return module


@contextlib.contextmanager
def mistakes_of(path: Path) -> Iterator[None]:
    """Tells whatever a config file's code raises as an `InputError` with the file's line."""
    try:
        yield
    except InputError:
        raise
    except (Exception, SystemExit) as error:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == str(path)]
        where = f"{path}:{getattr(error, 'lineno', None) or (lines or [1])[-1]}"
        message = " ".join(str(error).strip("'\"").split())
        raise InputError(f"{where}: {type(error).__name__}: {message}") from None


def from_file(path: Path, argument: str) -> ml_collections.ConfigDict:
    """The config that a file's `get_config(argument)` makes; its values are not yet checked.

    Raises:
      InputError: no such file, or a mistake inside it.
    """
    module = run_file(path)
    if not hasattr(module, "get_config"):
        raise InputError(f"config file {path} defines no function get_config(arg)")
    with mistakes_of(path):
        config = module.get_config(argument)
    if not isinstance(config, ml_collections.ConfigDict):
        raise InputError(f"{path}: get_config(arg) must return a config, got {type(config)}")
    _check_names(config, path)
    return config


def _check_names(config: ml_collections.ConfigDict, path: Path) -> None:
    """Raises an `InputError` unless the fields are those of `default`: groups and values may be
    exchanged for one another even in a locked config."""
    try:
        name = config.model.name
        known, flat = flatten(default(model=name)), flatten(config)
    except (AttributeError, TypeError):
        raise InputError(f"{path}: config.model is not what config.default made") from None
    for field in flat:
        if field not in known:
            raise InputError(
                f"{path}: config.{field} is no field{_nearest(field, known, 'config.')}"
            )
    for field in known:
        if field not in flat:
            raise InputError(f"{path}: config.{field} is not set; begin with config.default(…)")


def _type_of(config: ml_collections.ConfigDict, name: str) -> Any:
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
        raise InputError(f"config.{name} is no field{_nearest(name, known, 'config.')}")
    module = models.MODELS[config.model.name].module
    return typing.get_type_hints(module)[name.removeprefix("model.")]


def set_value(config: ml_collections.ConfigDict, name: str, value: Any) -> None:
    """Sets the field of that dotted name; its type is not checked."""
    *parents, leaf = name.split(".")
    for parent in parents:
        config = config[parent]
    config[leaf] = value


def other_units(name: str) -> list[str]:
    """The fields that give the same duration in another unit; none if the field is no duration."""
    stem, _, unit = name.rpartition("_")
    if unit not in UNITS:
        return []
    return [f"{stem}_{u}" for u in UNITS if u != unit and f"{stem}_{u}" in FIELDS]


def _check_durations(config: ml_collections.ConfigDict) -> None:
    flat = flatten(config)
    for name, value in flat.items():
        if value is None or not other_units(name):
            continue
        if value < 0:
            raise InputError(f"config.{name}: {value!r} is negative")
        if value == math.inf:
            raise InputError(f"config.{name}: {value!r} is not finite")
        for other in other_units(name):
            if flat[other] is not None:
                raise InputError(f"config.{name} and config.{other} are both set; keep one")
    if all(flat[f"total_{unit}"] is None for unit in UNITS[:-1]):
        raise InputError("config.total_steps, total_epochs or total_examples must be set")


def _nearest(word: str, known: Any, prefix: str = "") -> str:
    """A hint such as "; did you mean config.optim.learning_rate?", or nothing."""
    group, _, leaf = word.rpartition(".")
    leaves = {name: name.rpartition(".")[2] for name in known}
    same = [name for name in leaves if leaves[name] == leaf]
    initials = [n for n in leaves if leaf == "".join(part[0] for part in leaves[n].split("_"))]
    near = difflib.get_close_matches(word, leaves, n=1, cutoff=0.6)
    inside = [name for name in leaves if name.startswith(f"{group}.") and leaf in leaves[name]]
    candidates = [*same, *initials, *inside, *near]
    return f"; did you mean {prefix}{candidates[0]}?" if candidates else ""
