"""The trials of a sweep: every point tried on paper before the first one starts."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from cv_jax import config as configs
from cv_jax.errors import InputError, RunError
from cv_jax.progress import counted
from cv_jax.run import workdir
from cv_jax.sweep import folder as folders
from cv_jax.sweep.folder import Trial
from cv_jax.sweep.points import Point, Sweep, distinct, text_of
from cv_jax.training import dry_run, experiment


def prepare(
    sweep: Sweep, folder: Path, program: list[str], check_flags: Callable[[str], Any]
) -> list[Trial]:
    """The trials of all points, in order; nothing is written, no device but the CPU's is touched.

    Args:
      sweep: the points.
      folder: of the sweep.
      program: the words before the flags of a plain command.
      check_flags: raises an `InputError` unless XLA knows these flags.

    Raises:
      InputError: a point is refused, as its run would be, by its name.
    """
    trials = []
    checked = {""}
    for point in counted(sweep.points, "checking points"):
        path = folder / point.name
        with _named(point):
            parts = _build(sweep, point)
            if parts.config.xla_flags not in checked:
                check_flags(parts.config.xla_flags)
                checked.add(parts.config.xla_flags)
            workdir.check(path, parts.config, parts.fingerprint)
            if not path.exists():
                parts.pretrained()  # whether they are there, and fit
        command = [*program, *sweep.command(point, path)]
        log = folder / f"{point.name}.log"
        size = parts.config.batch_size
        trials.append(Trial(point.name, command, path, log, parts.total_steps, size))
    return trials


def listing(sweep: Sweep, folder: Path) -> Iterator[str]:
    """A table of the points: values, parameters, multiply-adds an image, steps, how far it is."""
    keys = distinct(sweep.points) or ["point"]
    head = [*keys, "parameters", "mult-adds/image", "steps", "done"]
    rows = []
    for point in counted(sweep.points, "counting"):
        with _named(point):
            parts = _build(sweep, point)
        parameters, adds = dry_run.sizes(parts)
        values = {**point.arguments, **point.overrides, "point": point.name}
        shown = [text_of(values[key]) if key in values else "" for key in keys]
        step = folders.progress(folder / point.name)
        sizes = [f"{number:,}" for number in (parameters, adds, parts.total_steps, step)]
        rows.append([*shown, *sizes])
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    for row in [head, *rows]:
        left = [text.ljust(width) for text, width in zip(row, widths, strict=True)][: len(keys)]
        right = [text.rjust(width) for text, width in zip(row, widths, strict=True)][len(keys) :]
        yield "  ".join([*left, *right])


@contextlib.contextmanager
def _named(point: Point) -> Iterator[None]:
    """Puts the point's name before what is wrong with it."""
    try:
        yield
    except (InputError, RunError) as error:
        raise InputError(f"point {point.name}: {error}") from None


def _build(sweep: Sweep, point: Point) -> experiment.Experiment:
    config = configs.load(sweep.reference(point), sweep.texts(point))
    if config.data.cache in ("auto", "memory"):
        config.data.cache = "none"  # only shapes are looked at
    return experiment.build(config)
