"""Differences of configs: of a run and its recipe, of the fields' defaults, and between runs."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv_jax
from cv_jax import config as configs
from cv_jax.config.fields import FIELDS
from cv_jax.errors import InputError
from cv_jax.report.run_files import RunFiles

RECIPES = Path(cv_jax.__file__).resolve().parents[1] / "configs"


class Difference(NamedTuple):
    """A field with different values: its name, the values as text, and its meaning."""

    field: str
    values: tuple[str, ...]
    meaning: str


class Recipe(NamedTuple):
    """The config file of a run.

    Attributes:
      reference: `FILE[:ARGUMENT]` of the command; "" if it names none.
      flags: `--config.NAME=VALUE` of the command.
      differences: fields whose value in the run differs from that of the file, as
        (value of the file, value of the run); `None` if the file was not read.
      reason: why the file was not read.
    """

    reference: str
    flags: list[str]
    differences: list[Difference] | None
    reason: str


def of_recipe(run: RunFiles) -> Recipe:
    """Compare a run with its config file as it is now.

    Only files in the folder `configs` of this checkout are executed: a run directory may come from
    elsewhere, and what it names must not run.
    """
    words = [str(word) for word in run.starts[0].get("command", [])] if run.starts else []
    flags = [word for word in words if word.startswith("--config.")]
    reference = ""
    for word, following in zip(words, [*words[1:], ""], strict=False):
        if word == "--config":
            reference = following
        elif word.startswith("--config="):
            reference = word.removeprefix("--config=")
    if not reference:
        return Recipe("", flags, None, "the command of the run is not recorded")
    file = Path(configs.split_reference(reference)[0]).resolve()
    if not file.is_file() or RECIPES not in file.parents:
        return Recipe(reference, flags, None, "its config file is not in this checkout")
    try:
        recipe = configs.flatten(configs.with_normalisation(configs.load(reference)))
    except InputError as error:
        return Recipe(reference, flags, None, str(error))
    recipe = _plain(recipe)
    names = sorted({*recipe, *run.config})
    pairs = [(name, recipe.get(name), run.config.get(name, recipe.get(name))) for name in names]
    found = [
        Difference(name, (show(before), show(now)), _meaning(name))
        for name, before, now in pairs
        if before != now
    ]
    return Recipe(reference, flags, found, "")


def between(runs: Sequence[RunFiles]) -> list[Difference]:
    """Return the fields in which configs differ; a field that a config does not have is "–"."""
    names = sorted({name for run in runs for name in run.config})
    found = []
    for name in names:
        values = tuple(show(run.config[name]) if name in run.config else "–" for run in runs)
        if len(set(values)) > 1:
            found.append(Difference(name, values, _meaning(name)))
    return found


def show(value: Any) -> str:
    """Return a value as the command line writes it."""
    if value is None or isinstance(value, bool):
        return {None: "none", True: "true", False: "false"}[value]
    if isinstance(value, (list, tuple)):
        return ", ".join(map(show, value)) or "empty"
    if isinstance(value, float):
        return f"{value:.10g}"
    return str(value) if value != "" else "empty"


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(values))  # tuples are lists, as in config.json


def _meaning(name: str) -> str:
    return FIELDS[name].meaning if name in FIELDS else ""
