"""The trials of a sweep: every point is validated before any trial starts.

Building the experiment of a point takes most of the time. Points that differ only in `NUMBERS`
share one, so that a sweep over thousands of seeds and rates is checked in seconds.
"""

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import ml_collections

from cv_jax import config as configs
from cv_jax.config.fields import FIELDS
from cv_jax.config.values import check
from cv_jax.errors import InputError, RunError
from cv_jax.interop.pretrained import digest
from cv_jax.progress import counted
from cv_jax.run import workdir
from cv_jax.sweep import folder as folders
from cv_jax.sweep.display import aligned
from cv_jax.sweep.folder import Trial
from cv_jax.sweep.points import Point, Sweep, distinct, text_of
from cv_jax.training import experiment

# The range of such a field alone decides whether a value is allowed, and the value changes neither
# the network, the data nor the number of steps.
NUMBERS = (
    *("seed", "optim.learning_rate", "optim.weight_decay", "optim.eps"),
    *("schedule.warmup_factor", "schedule.end_factor", "loss.label_smoothing"),
)
MOST_KEPT = 1000  # checked points in memory

Key = tuple  # of the points that share an experiment
Kept = dict[Key, "Checked"]


class Checked(NamedTuple):
    """A valid point.

    Attributes:
      config: of its experiment.
      fingerprint, classes, total_steps: see `Experiment`.
      others: the values of all fields but `NUMBERS`, as JSON.
      numbers: the values of `NUMBERS`.
      parts: its experiment; `None` if the point was checked with that of another one.
    """

    config: ml_collections.ConfigDict
    fingerprint: dict[str, Any]
    classes: tuple[str, ...]
    total_steps: int
    others: str
    numbers: dict[str, Any]
    parts: experiment.Experiment | None

    @property
    def values(self) -> tuple:
        """The values of all fields: equal for points whose values are written differently."""
        return self.others, *self.numbers.values()


def prepare(
    sweep: Sweep,
    folder: Path,
    program: list[str],
    check_flags: Callable[[str], Any],
    kept: Kept | None = None,
) -> list[Trial]:
    """Validate all points and return their trials, in order; write nothing.

    Args:
      sweep: the sweep.
      folder: the sweep directory.
      program: words of a plain command before its flags.
      check_flags: raises an `InputError` for unknown XLA flags.
      kept: checked points of earlier calls for the same folder; this call adds its own.

    Raises:
      InputError: the run of a point would be refused, or equals the run of another point; the
        message starts with the point's name.
    """
    kept = {} if kept is None else kept
    trials = []
    checked = {""}
    names: dict[tuple, str] = {}  # values → point
    for point in counted(sweep.points, "checking points"):
        path = folder / point.name
        with _named(point):
            found = _check(sweep, point, kept, path)
            config, same = found.config, names.setdefault(found.values, point.name)
            if same != point.name:
                raise InputError(f"the point {same} has the same values")
            if config.xla_flags not in checked:
                check_flags(config.xla_flags)
                checked.add(config.xla_flags)
            workdir.check(path, config, found.fingerprint, classes=found.classes)
            if workdir.needs_initial_weights(path, config):  # such a point has its own experiment
                workdir.check_initial_weights(path, digest(found.parts.pretrained()))
        command = [*program, *sweep.command(point, path)]
        log = folder / f"{point.name}.log"
        steps, size = found.total_steps, config.batch_size
        trials.append(Trial(point.name, command, path, log, steps, size))
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
    found, kept = [], {}
    of_nets: dict[tuple, experiment.Sizes] = {}  # many points have the same network
    known: dict[str, experiment.Sizes] = {}  # values of the other fields → sizes
    for point in counted(sweep.points, "counting"):
        with _named(point):
            one = _check(sweep, point, kept)
        if one.parts is not None:
            parts, labels = one.parts, one.parts.train_images.source.label_shape
            net = parts.model, parts.input_shape, labels, one.config.optim.master_weights
            if net not in of_nets:
                of_nets[net] = parts.sizes
            known[one.others] = of_nets[net]
        found.append(Size(point, *known[one.others], one.total_steps, one.config.batch_size))
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


def _check(sweep: Sweep, point: Point, kept: Kept, path: Path | None = None) -> Checked:
    """Check a point, with one of `kept` if it differs only in `NUMBERS`.

    Without its run directory, the weights are not read. The config of a kept point gets the values
    of this one: it is this point's until the next call. Experiments are not kept: each holds open
    files and threads.
    """
    reference, texts = sweep.reference(point), sweep.texts(point)
    own = [name for name in NUMBERS if name in texts]
    key = reference, *(item for item in texts.items() if item[0] not in own), *own
    if key in kept:
        found, numbers = kept[key], {}
        for name in own:
            where = f"config.{name}={texts[name]}"
            numbers[name] = check(texts[name], FIELDS[name].type, where, parsing=True)
            FIELDS[name].check(numbers[name])
            configs.set_value(found.config, name, numbers[name])
        return found._replace(numbers={**found.numbers, **numbers})
    config = configs.stated(reference, texts)
    decides = "seed" in own and configs.follows_seed(config)
    config = configs.resolved(config)
    others = configs.flatten(config)
    numbers = {name: others.pop(name) for name in NUMBERS}
    parts = _build(config, path)
    shared = parts.config, parts.fingerprint, parts.classes, parts.total_steps
    found = Checked(*shared, json.dumps(others, sort_keys=True), numbers, parts)
    # New parameters beside loaded weights depend on the seed.
    if own and not decides and config.init_from is None:
        if len(kept) == MOST_KEPT:
            kept.pop(next(iter(kept)))
        kept[key] = found._replace(parts=None)
    return found


def _build(config: ml_collections.ConfigDict, path: Path | None) -> experiment.Experiment:
    if path is None:
        config = configs.with_normalisation(config)
    if config.data.cache in ("auto", "memory"):
        config.data.cache = "none"  # only shapes are needed
    return experiment.build(config, workdir=path)
