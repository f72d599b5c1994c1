"""Config files: reading, arguments, and overrides from the command line."""

import contextlib
import importlib.util
import traceback
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_collections

from cv_jax.config.durations import check_durations, other_units
from cv_jax.config.limits import check_values
from cv_jax.config.tree import default, flatten, set_value, type_of
from cv_jax.config.values import check
from cv_jax.errors import InputError, did_you_mean


def load(reference: str, overrides: dict[str, str] | None = None) -> ml_collections.ConfigDict:
    """Read `FILE[:ARGUMENT]`, apply overrides, and check the type and range of every value.

    Args:
      reference: path of a config file, optionally with an argument for its `get_config`.
      overrides: dotted field name → text from the command line. A duration in one unit replaces
        the duration of the file, whatever its unit.

    Raises:
      InputError: the file is missing or raises an error, a field is unknown, or a value has the
        wrong type or is out of range.
    """
    path, _, argument = reference.partition(":")
    config = from_file(Path(path), argument)
    overrides = overrides or {}
    for name, text in overrides.items():
        value = check(text, type_of(config, name), f"config.{name}={text}", parsing=True)
        siblings = other_units(name)
        # "none" removes the duration of the file in any unit, but not another override.
        if value is not None or overrides.keys().isdisjoint(siblings):
            for sibling in siblings:
                set_value(config, sibling, None)
        set_value(config, name, value)
    for name, value in flatten(config).items():
        if name != "model.name":
            set_value(config, name, check(value, type_of(config, name), f"config.{name}"))
    check_durations(config)
    check_values(config)
    return config


def parse_argument(arg: str | None, **options: Any) -> tuple[str, dict[str, Any]]:
    """Parse `dataset,key=value,…`, the part of `--config=FILE:ARGUMENT` after the colon.

    Args:
      arg: the text; empty or `None` for the embedded dataset.
      **options: key → default. Values get the type of the default. A tuple lists all allowed
        values, the default first.

    Returns:
      `(dataset, options)`: the name of the dataset, "digits" by default, and key → value.

    Raises:
      InputError: an unknown key, or a value that is not allowed.
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
                f"config argument {item!r} is not known{did_you_mean(key, options)}; "
                f"allowed: DATASET, then {allowed}"
            )
        else:
            where = f"config argument {item}"
            if isinstance(options[key], tuple) and value not in options[key]:
                allowed = ", ".join(options[key])
                raise InputError(f"{where}: {value!r} is not one of {allowed}")
            chosen[key] = check(value, type(chosen[key]), where, parsing=True)
    return dataset, chosen


def run_file(path: Path) -> types.ModuleType:
    """Execute a config file and return its module.

    Raises:
      InputError: the file is missing, or its code raises an error.
    """
    if not path.is_file():
        folder = path.parent
        found = [str(p) for p in sorted(folder.glob("*.py"))] if folder.is_dir() else []
        raise InputError(f"config file {path} does not exist{did_you_mean(str(path), found)}")
    spec = importlib.util.spec_from_file_location(f"cv_jax_config_{path.stem}", path)
    if spec is None:
        raise InputError(f"config file {path} is not a Python file: its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    with mistakes_of(path):
        spec.loader.exec_module(module)
    return module


@contextlib.contextmanager
def mistakes_of(path: Path) -> Iterator[None]:
    """Turn any exception from the code of a config file into an `InputError` with its line."""
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
    """Return the result of a file's `get_config(argument)`; its values are not checked.

    Raises:
      InputError: the file is missing, its code raises an error, or the result is not a config
        with the fields of `default`.
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
    """Raise an `InputError` unless the config has exactly the fields of `default`.

    A locked config rejects unknown names, but a file can still replace a group by a value.
    """
    try:
        name = config.model.name
        known, flat = flatten(default(model=name)), flatten(config)
    except (AttributeError, TypeError):
        raise InputError(
            f"{path}: config.model must be the group that config.default() made"
        ) from None
    for field in flat:
        if field not in known:
            raise InputError(
                f"{path}: config.{field} is not a field{did_you_mean(field, known, 'config.')}"
            )
    for field in known:
        if field not in flat:
            raise InputError(f"{path}: config.{field} is not set; start from config.default(…)")
