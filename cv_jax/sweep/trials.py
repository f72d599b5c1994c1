"""The trials of a sweep: every point is validated before any trial starts."""

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from cv_jax import config as configs
from cv_jax.errors import InputError, RunError
from cv_jax.interop.pretrained import digest
from cv_jax.progress import counted
from cv_jax.run import workdir
from cv_jax.sweep import folder as folders
from cv_jax.sweep.display import aligned
from cv_jax.sweep.folder import Trial
from cv_jax.sweep.points import Point, Sweep, distinct, text_of
from cv_jax.training import experiment


def prepare(
    sweep: Sweep, folder: Path, program: list[str], check_flags: Callable[[str], Any]
) -> list[Trial]:
    """Validate all points and return their trials, in order; write nothing.

    Args:
      sweep: the sweep.
      folder: the sweep directory.
      program: words of a plain command before its flags.
      check_flags: raises an `InputError` for unknown XLA flags.

    Raises:
      InputError: the run of a point would be refused, or equals the run of another point; the
        message starts with the point's name.
    """
    trials = []
    checked = {""}
    names: dict[str, str] = {}  # config → point
    for point in counted(sweep.points, "checking points"):
        path = folder / point.name
        with _named(point):
            parts = _build(sweep, point, path)
            same = names.setdefault(_stated(sweep, point), point.name)
            if same != point.name:
                raise InputError(f"the point {same} has the same values")
            if parts.config.xla_flags not in checked:
                check_flags(parts.config.xla_flags)
                checked.add(parts.config.xla_flags)
            workdir.check(path, parts.config, parts.fingerprint, classes=parts.classes)
            if workdir.needs_initial_weights(path, parts.config):
                workdir.check_initial_weights(path, digest(parts.pretrained()))
        command = [*program, *sweep.command(point, path)]
        log = folder / f"{point.name}.log"
        size = parts.config.batch_size
        trials.append(Trial(point.name, command, path, log, parts.total_steps, size))
    return trials


class Size(NamedTuple):
    """Sizes of the run of a point: of its network for one example, and of its training."""

    point: Point
    parameters: int
    multiply_adds: int
    steps: int
    batch_size: int


def sizes(sweep: Sweep) -> list[Size]:
    """Return the sizes of every point, in order; write nothing.

    Raises:
      InputError: the run of a point would be refused.
    """
    found, counted_sizes = [], {}
    for point in counted(sweep.points, "counting"):
        with _named(point):
            parts = _build(sweep, point)
        labels = parts.train_images.source.label_shape
        net = parts.model, parts.input_shape, labels, parts.config.optim.master_weights
        if net not in counted_sizes:  # many points have the same network
            counted_sizes[net] = parts.sizes
        own = *counted_sizes[net], parts.total_steps, parts.config.batch_size
        found.append(Size(point, *own))
    return found


def listing(sweep: Sweep, folder: Path) -> list[str]:
    """Return a table of the points: values, parameters, multiply-adds, steps, steps done."""
    keys = distinct(sweep.points) or ["point"]
    head = [*keys, "parameters", "mult-adds/image", "steps", "done"]
    rows = []
    for size in sizes(sweep):
        point = size.point
        values = {**point.arguments, **point.overrides, "point": point.name}
        shown = [text_of(values[key]) if key in values else "" for key in keys]
        step = folders.progress(folder / point.name)
        numbers = size.parameters, size.multiply_adds, size.steps, step
        rows.append([*shown, *(f"{n:,}" for n in numbers)])
    return aligned([head, *rows], left=len(keys))


@contextlib.contextmanager
def _named(point: Point) -> Iterator[None]:
    """Put the name of the point before error messages."""
    try:
        yield
    except (InputError, RunError) as error:
        raise InputError(f"point {point.name}: {error}") from None


def _stated(sweep: Sweep, point: Point) -> str:
    """Return the values of all fields: equal for points whose values are written differently."""
    config = configs.load(sweep.reference(point), sweep.texts(point))
    return json.dumps(configs.flatten(config), sort_keys=True)


def _build(sweep: Sweep, point: Point, path: Path | None = None) -> experiment.Experiment:
    """Build the experiment of a point; without its run directory, the weights are not read."""
    config = configs.load(sweep.reference(point), sweep.texts(point))
    if path is None:
        config = configs.with_normalisation(config)
    if config.data.cache in ("auto", "memory"):
        config.data.cache = "none"  # only shapes are needed
    return experiment.build(config, workdir=path)
