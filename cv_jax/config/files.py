"""Config files: reading, arguments, and overrides from the command line."""

import contextlib
import importlib.util
import re
import traceback
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ml_collections

from cv_jax.config.durations import check_durations, other_units
from cv_jax.config.fields import FIELDS
from cv_jax.config.limits import check_values
from cv_jax.config.tree import (
    default,
    flatten,
    set_value,
    states_normalisation,
    type_of,
    with_normalisation,
)
from cv_jax.config.values import check, parse
from cv_jax.errors import InputError, did_you_mean
from cv_jax.paths import described, require_file


class WrongArgument(InputError):
    """A mistake in the argument of a config file."""


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
    return resolved(stated(reference, overrides or {}))


def stated(reference: str, overrides: dict[str, str]) -> ml_collections.ConfigDict:
    """Return the values that file and overrides state; arguments and errors as in `load`.

    Their types are those of the fields; `resolved` checks their ranges.
    """
    path, argument = split_reference(reference)
    config = from_file(Path(path), argument)
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
            where = f"config.{name}" if name in overrides else f"{path}: config.{name}"
            set_value(config, name, check(value, type_of(config, name), where))
    return config


def resolved(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """Return the config of stated values, all of them checked; errors as in `load`."""
    _follow_seed(config)
    check_durations(config)
    check_values(config)
    # Weights may have been trained with another mean; see `interop.pretrained.normalised`.
    open_to_weights = config.init_from is not None and not states_normalisation(config)
    return config if open_to_weights else with_normalisation(config)


def follows_seed(config: ml_collections.ConfigDict) -> bool:
    """Whether the seed decides other fields of stated values."""
    texts = filter(None, (config.init_from, config.distill.teacher))
    return config.data.subset_seed is None or any("{seed}" in text for text in texts)


def _follow_seed(config: ml_collections.ConfigDict) -> None:
    """Set what depends on the seed: the subset of the examples, and the places of weights."""
    if config.data.subset_seed is None:
        config.data.subset_seed = config.seed
    for part, name in ((config, "init_from"), (config.distill, "teacher")):
        if part[name] is not None:
            part[name] = part[name].replace("{seed}", str(config.seed))


def split_reference(reference: str) -> tuple[str, str]:
    """Return path and argument of `FILE[:ARGUMENT]`; the path may contain a colon."""
    match = re.match(r"(.+?\.py)(?::(.*))?$", reference, re.DOTALL)
    if match is None:
        path, _, argument = reference.partition(":")
        return path, argument
    return match[1], match[2] or ""


def split_argument(arg: str) -> list[str]:
    """Split `dataset,key=value,…` into its items.

    A comma in the path of a dataset, such as folder:/a,b, does not separate.
    """
    dataset, comma, rest = arg.partition(",")
    if not re.match(r"\w+:", dataset):
        return [item for item in arg.split(",") if item]
    path, *items = re.split(r",(?=\w+=|$)", arg)
    return [path, *filter(None, items)]


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
    given = set()
    for i, item in enumerate(split_argument(arg or "")):
        key, _, value = item.partition("=")
        if key in given:
            raise WrongArgument(f"config argument {item!r}: {key} is given twice")
        given.add(key)
        if i == 0 and not re.match(r"\w+=", item):
            dataset = item
        elif "=" not in item or key not in options:
            allowed = ", ".join(f"{k}=…" for k in options) or "none"
            raise WrongArgument(
                f"config argument {item!r} is not known{did_you_mean(key, options)}; "
                f"allowed: DATASET, then {allowed}"
            )
        else:
            where = f"config argument {item}"
            if isinstance(options[key], tuple) and value not in options[key]:
                allowed = ", ".join(options[key])
                raise WrongArgument(f"{where}: {value!r} is not one of {allowed}")
            try:
                chosen[key] = parse(value, type(chosen[key]))
            except TypeError as error:
                raise WrongArgument(f"{where}: {error}") from None
    return dataset, chosen


def run_file(path: Path) -> types.ModuleType:
    """Execute a config file and return its module.

    Raises:
      InputError: the file is missing, or its code raises an error.
    """
    if not path.is_file():
        folder = path.parent
        found = [str(p) for p in sorted(folder.glob("*.py"))] if folder.is_dir() else []
        hint = did_you_mean(str(path), found)
        raise InputError(f"config file {path} {described(path)}{hint or '; give a file'}")
    require_file(path)
    spec = importlib.util.spec_from_file_location(f"cv_jax_config_{path.stem}", path.absolute())
    if spec is None:
        raise InputError(f"config file {path} is not a Python file: its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    with mistakes_of(path):
        # Not `exec_module`: Python's bytecode cache misses a second change within one second.
        exec(spec.loader.source_to_code(path.read_bytes(), spec.origin), module.__dict__)
    return module


@contextlib.contextmanager
def mistakes_of(path: Path, function: Callable | None = None) -> Iterator[None]:
    """Turn any exception from the code of a config file into an `InputError` with file and line.

    Args:
      path: the file, as the user wrote it.
      function: the function of the file that is called; it may be imported from another file.
    """
    origin = str(path.absolute())
    code = getattr(function, "__code__", None)
    file, line = (code.co_filename, code.co_firstlineno) if code else (origin, None)
    try:
        yield
    except WrongArgument:  # the command line is wrong, not the file
        raise
    except (Exception, SystemExit) as error:
        if isinstance(error, SyntaxError) and error.filename == file:
            line, text = error.lineno, error.msg
        else:
            frames = traceback.extract_tb(error.__traceback__)
            line = ([line] + [frame.lineno for frame in frames if frame.filename == file])[-1]
            text = _message(error)
        where = ":".join(filter(None, (str(path) if file == origin else file, line and str(line))))
        kind = "" if isinstance(error, InputError) else f"{type(error).__name__}: "
        raise InputError(f"{where}: {kind}{text}".removesuffix(": ")) from None


def _message(error: BaseException) -> str:
    """The message of an exception in one line, without escapes."""
    if len(error.args) == 1 and isinstance(error.args[0], KeyError):
        error = error.args[0]  # a ConfigDict raises AttributeError(KeyError(message))
    # The text of a KeyError is the repr of its message.
    text = str(error.args[0] if isinstance(error, KeyError) and error.args else error)
    unknown = re.match(r'Key "(.+?)" does not exist|\'(.+?)\'(?=\n|$)', text)
    if unknown and isinstance(error, KeyError):  # of a ConfigDict, which lists all other fields
        name = unknown[1] or unknown[2]
        near = re.search(r'Did you mean "(.+?)"', text)
        hint = f"; did you mean {near[1]}?" if near else did_you_mean(name, FIELDS, "config.")
        return f"{name} is not a field{hint}"
    return " ".join(text.split())


def from_file(path: Path, argument: str) -> ml_collections.ConfigDict:
    """Return the result of a file's `get_config(argument)`; its values are not checked.

    Raises:
      InputError: the file is missing, its code raises an error, or the result is not a config
        with the fields of `default`.
    """
    get_config = getattr(run_file(path), "get_config", None)
    if not callable(get_config):
        raise InputError(f"config file {path} defines no function get_config(arg)")
    with mistakes_of(path, get_config):
        config = get_config(argument)
    if not isinstance(config, ml_collections.ConfigDict):
        kind = type(config).__name__
        raise InputError(f"{path}: get_config(arg) must return a config, not {kind}")
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
    parts = [name.split(".") for name in known]
    groups = {".".join(names[:i]) for names in parts for i in range(1, len(names))}
    for field in flat:
        if field in groups:
            raise InputError(f"{path}: config.{field} is a group of fields and takes no value")
        if field not in known:
            raise InputError(
                f"{path}: config.{field} is not a field{did_you_mean(field, known, 'config.')}"
            )
    for field in known:
        if field not in flat:
            raise InputError(f"{path}: config.{field} is not set; start from config.default(…)")
