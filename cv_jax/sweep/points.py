"""The points of a sweep.

A config file defines, besides `get_config(arg)`, generators of points:

    def sweep():                    # --sweep
        for rate in (1e-3, 3e-3):
            yield {"optim.learning_rate": rate}

    def sweep_depth(arg):           # --sweep=depth; --sweep=depth,rate takes all combinations
        for depth in (20, 56):
            yield {"model": f"resnet{depth}_cifar"}

A key of a point with a dot, or the name of a field such as `seed`, is an override:
`--config.KEY=VALUE` of the plain command. Any other key is an argument of the config file:
`FILE:DATASET,KEY=VALUE`, with the key `dataset` for the first. A generator with a parameter
receives the argument of the command line.
"""

import hashlib
import inspect
import itertools
import json
import math
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cv_jax import config as configs
from cv_jax.config.fields import FIELDS
from cv_jax.config.values import check
from cv_jax.errors import InputError

MOST = 10_000  # points: each one is checked before the first trial
LONGEST_NAME = 100  # characters; file systems allow 255 bytes, and suffixes follow


class Point(NamedTuple):
    """The values of one run of a sweep.

    Attributes:
      name: unique, readable and safe as a file name; a function of the values only.
      overrides: dotted field name → value.
      arguments: key → value, for the config file.
    """

    name: str
    overrides: dict[str, Any]
    arguments: dict[str, Any]


class Sweep(NamedTuple):
    """A config file and the points of a sweep.

    Attributes:
      config: path of the config file.
      argument: argument of the config file for all points, as on the command line.
      overrides: overrides for all points: dotted field name → text.
      points: distinct points.
      search: method and ranges of a search, see `search`; `None` for a sweep.
    """

    config: str
    argument: str
    overrides: dict[str, str]
    points: tuple[Point, ...]
    search: dict[str, Any] | None = None

    def reference(self, point: Point) -> str:
        """Return `FILE[:DATASET[,KEY=VALUE…]]` of a point."""
        items = configs.split_argument(self.argument)
        own = dict(point.arguments)
        if "dataset" in own:
            items.insert(0, text_of(own.pop("dataset")))
        items += [f"{key}={text_of(value)}" for key, value in own.items()]
        return f"{self.config}:{','.join(items)}" if items else self.config

    def texts(self, point: Point) -> dict[str, str]:
        """Return all overrides of a point: dotted field name → text."""
        own = {name: text_of(value) for name, value in point.overrides.items()}
        return {**self.overrides, **own}

    def command(self, point: Point, workdir: Path) -> list[str]:
        """Return the flags of the plain command of a point."""
        flags = [f"--config.{name}={text}" for name, text in self.texts(point).items()]
        return ["--config", self.reference(point), *flags, "--workdir", str(workdir)]


def read(
    reference: str, overrides: dict[str, str], names: str = "", seeds: int | None = None
) -> Sweep:
    """Return the sweep of a config file's generators.

    Args:
      reference: `FILE[:ARGUMENT]`, as for a plain run.
      overrides: overrides for all points: dotted field name → text.
      names: comma-separated names of generators; the sweep is the product of their points, and the
        last generator varies fastest. If empty, `sweep()` or the only generator.
      seeds: number of seeds, from 0, of every point; seeds vary fastest.

    Raises:
      InputError: a generator is missing or raises an error, a key or value cannot be written on a
        command line, a value is set twice, or two points are equal.
    """
    path, argument = configs.split_reference(reference)
    if seeds is not None and not 1 <= seeds <= MOST:
        raise InputError(f"--seeds={seeds} must be at least 1 and at most {MOST}")
    generators = _choose(path, configs.run_file(Path(path)), names)
    factors = [_points_of(path, generate, argument) for generate in generators]
    if seeds is not None:
        factors.append([{"seed": seed} for seed in range(seeds)])

    points: dict[str, Point] = {}
    count = math.prod(map(len, factors))
    if count > MOST:
        raise InputError(f"{path}: the sweep has {count} points; at most {MOST} are possible")
    for parts in itertools.product(*factors):
        values: dict[str, Any] = {}
        for part in parts:
            twice = next((key for key in part if _setters(key) & values.keys()), None)
            if twice is not None:
                raise InputError(f"{path}: two of the combined sweeps set {twice}")
            values.update(part)
        point = make_point(values)
        check_conflicts(point, argument, overrides)
        if point.name in points:
            raise InputError(f"{path}: the sweep has the point {point.name} twice")
        points[point.name] = point
    if not points:
        raise InputError(f"{path}: the sweep has no points")
    return Sweep(path, argument, dict(overrides), tuple(points.values()))


def make_point(values: dict[str, Any]) -> Point:
    """Return the point of key → value, divided into overrides and arguments."""
    overrides = {key: value for key, value in values.items() if is_override(key)}
    arguments = {key: value for key, value in values.items() if not is_override(key)}
    return Point(name_of(values), overrides, arguments)


def check_conflicts(point: Point, argument: str, overrides: dict[str, str]) -> None:
    """Raise an `InputError` if the command line and a point set the same field or argument."""
    items = configs.split_argument(argument)
    keys = {item.partition("=")[0] if re.match(r"\w+=", item) else "dataset" for item in items}
    for key in point.arguments:
        if key in keys:
            raise InputError(
                f"--config: the sweep sets the argument {key} ({point.name}); set it once"
            )
    for key in point.overrides:
        for name in sorted(_setters(key) & overrides.keys()):
            raise InputError(f"--config.{name}: the sweep sets {key} ({point.name}); set it once")


def is_override(key: str) -> bool:
    """Whether a key of a point is a config field, not an argument of the config file."""
    return "." in key or key in FIELDS


def text_of(value: Any) -> str:
    """Return the text of a value for `--config.KEY=VALUE`."""
    if isinstance(value, str):
        return value
    if value is None or isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple) and value and all(type(item) in (int, float) for item in value):
        return ",".join(map(repr, value))
    return repr(value)


def meaning(key: str, value: Any) -> str:
    """Return a text that is equal for values of a field that are written differently."""
    text = text_of(value)
    return repr(check(text, FIELDS[key].type, key, parsing=True)) if key in FIELDS else text


def name_of(values: dict[str, Any]) -> str:
    """Return `key=value,key=3x4`, with a digest if other values could have the same name."""
    texts = {key: text_of(value) for key, value in values.items()}
    shown, plain = [], True
    for key, text in texts.items():
        numbers = re.fullmatch(r"[-+.\de]+(,[-+.\de]+)*", text, re.ASCII)
        shown.append(f"{key}={text.replace(',', 'x') if numbers else text}")
        plain &= bool(numbers or re.fullmatch(r"[A-Za-z_][\w.+-]*", text, re.ASCII))
    name = ",".join(shown) or "default"
    if plain and len(name) <= LONGEST_NAME:
        return name
    digest = hashlib.sha256(json.dumps(texts).encode()).hexdigest()[:8]
    safe = re.sub(r"[^\w.,=+-]+", "_", name, flags=re.ASCII)
    return f"{safe[: LONGEST_NAME - 9]}-{digest}"


def _choose(path: str, module: Any, names: str) -> list[Callable]:
    found = {
        name.removeprefix("sweep").removeprefix("_"): function
        for name, function in inspect.getmembers(module, inspect.isfunction)
        if name == "sweep" or name.startswith("sweep_")
    }
    listed = ", ".join(name for name in found if name)
    if names:
        chosen = names.split(",")
        for name in chosen:
            if not name or name not in found:
                allowed = f"allowed: {listed}" if listed else "it defines no sweep_<name>()"
                raise InputError(f"--sweep={names}: {path} has no sweep {name!r}; {allowed}")
        if len(set(chosen)) < len(chosen):
            raise InputError(f"--sweep={names}: a sweep cannot be combined with itself")
        return [found[name] for name in chosen]
    if "" in found:
        return [found[""]]
    if not found:
        raise InputError(f"--sweep: {path} defines no sweep() or sweep_<name>()")
    if len(found) > 1:
        raise InputError(
            f"--sweep: {path} has several sweeps; choose with --sweep=NAME[,NAME…]: {listed}"
        )
    return list(found.values())


def _points_of(path: str, generate: Callable, argument: str) -> list[dict[str, Any]]:
    with configs.mistakes_of(Path(path), generate):
        takes_argument = bool(inspect.signature(generate).parameters)
        values = generate(argument) if takes_argument else generate()
        yielded = list(itertools.islice(values, MOST + 1))
    where = f"{path}: {generate.__name__}()"
    if len(yielded) > MOST:
        raise InputError(f"{where} has more than {MOST} points")
    return [plain(f"{where}, point {i}", values) for i, values in enumerate(yielded)]


def plain(where: str, values: Any) -> dict[str, Any]:
    """Convert the values of a point to built-in Python types.

    Args:
      where: start of error messages.
      values: key → value.

    Raises:
      InputError: a key or value cannot be written on a command line.
    """
    if not isinstance(values, dict):
        raise InputError(f"{where}: {values!r} is not a dict of values")
    return {_key(where, key): _plain(where, key, value) for key, value in values.items()}


def _key(where: str, key: Any) -> str:
    if not isinstance(key, str) or not re.fullmatch(r"[A-Za-z]\w*(\.\w+)*", key, re.ASCII):
        raise InputError(f"{where}: {key!r} is neither a field nor the name of an argument")
    return key


def _plain(where: str, key: str, value: Any) -> Any:
    """Convert a value to built-in Python types, and a list to a tuple."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, (tuple, list)):
        value = tuple(_plain(where, key, item) for item in value)
    elif not isinstance(value, (str, int, float, bool, type(None))):
        raise InputError(f"{where}: {key} has a type of no field, {type(value).__name__}")
    elif isinstance(value, str) and ("\n" in value or "\0" in value):
        raise InputError(f"{where}: {key}={value!r} has a line break or a null byte")
    if not is_override(key):
        text = text_of(value)
        if configs.split_argument(text if key == "dataset" else f"{key}={text}")[1:]:
            raise InputError(f"{where}: the argument {key}={text} contains a comma")
    return value


def _setters(key: str) -> set[str]:
    """Return the keys that set the same value: the key, and other units of a duration."""
    return {key, *configs.other_units(key)}


def distinct(points: Iterable[Point]) -> list[str]:
    """Return the keys whose values differ between points, in the order of the points."""
    rows = [{**point.arguments, **point.overrides} for point in points]
    keys = dict.fromkeys(key for row in rows for key in row)
    return [key for key in keys if len({repr(row.get(key, ())) for row in rows}) > 1]
