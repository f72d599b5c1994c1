"""Searches: points are drawn from ranges, and bad trials are pruned.

A config file defines, besides `get_config(arg)`,

    from cv_jax.sweep.ranges import choice, integer, log_uniform, uniform

    def search():
        return {
            "optim.learning_rate": log_uniform(1e-4, 1e-1),
            "optim.name": choice("adamw", "sgd"),
            "depth": integer(2, 12),
        }

with keys as in the points of a sweep. `--search` draws at random: point `i` is a function of `i`
and the ranges. `--search=optuna` proposes each point from all results so far (a tree-structured
Parzen estimator; Bergstra et al., 2011, section 4). Every proposal rebuilds the study from the run
directories, so a kill loses nothing. An invalid point, such as a width that is not divisible by the
number of heads, is replaced by another draw.

The search maximises the accuracy on `data.eval_split`, or the negated loss. To keep the test images
unseen, train on `train[:90%]` and evaluate on `train[90%:]`.
"""

import hashlib
import importlib.util
import inspect
import statistics
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cv_jax import config as configs
from cv_jax.errors import InputError
from cv_jax.evaluation.metrics import implausible, quality
from cv_jax.run import json_files
from cv_jax.sweep import folder as folders
from cv_jax.sweep import points
from cv_jax.sweep.folder import Trial
from cv_jax.sweep.points import Point, Sweep
from cv_jax.sweep.ranges import Range

METHODS = ("random", "optuna")
ATTEMPTS = 50  # draws in a row for one valid new point
COMPARED = 5  # smallest number of other trials for the median stopping rule

Curve = dict[int, float]  # step → quality of the evaluation at that step


class Past(NamedTuple):
    """A trial as input of the next proposal.

    Attributes:
      values: key → value of its point.
      state: "finished", "pruned", or "open" for a trial that is running, has failed or has not
        begun.
      curve: its evaluations.
    """

    values: dict[str, Any]
    state: str
    curve: Curve


def read(reference: str, overrides: dict[str, str], method: str) -> tuple[Sweep, dict[str, Range]]:
    """Return a sweep without points, and the ranges of a config file's `search()`.

    Raises:
      InputError: `search()` is missing or raises an error, a key or value is invalid, or Optuna is
        not installed.
    """
    if method not in METHODS:
        raise InputError(f"--search={method}: allowed are {', '.join(METHODS)}")
    if method == "optuna" and importlib.util.find_spec("optuna") is None:
        raise InputError('--search=optuna: optuna is not installed; pip install "cv_jax[search]"')
    path, argument = configs.split_reference(reference)
    declare = getattr(configs.run_file(Path(path)), "search", None)
    if not inspect.isfunction(declare):
        raise InputError(f"--search: {path} defines no search()")
    with configs.mistakes_of(Path(path), declare):
        ranges = declare(argument) if inspect.signature(declare).parameters else declare()
    where = f"{path}: search()"
    if not isinstance(ranges, dict) or not ranges:
        raise InputError(f"{where} must return a dict of ranges")
    for key, range in ranges.items():
        if not isinstance(range, Range):
            raise InputError(f"{where}: {key} is not a range; see cv_jax/sweep/ranges.py")
        for value in range.choices or (range.low,):
            points.plain(where, {key: value})
        meanings = [points.meaning(key, value) for value in range.choices]
        if len(set(meanings)) < len(meanings):
            raise InputError(
                f"{where}: {key} has equal choices: {', '.join(map(repr, range.choices))}"
            )
    points.check_conflicts(points.make_point(draw(ranges, 0, 0)), argument, overrides)
    declared = {key: range._asdict() for key, range in ranges.items()}
    search = {"method": method, "ranges": declared}
    return Sweep(path, argument, dict(overrides), (), search), ranges


class Search(NamedTuple):
    """A search in a sweep directory.

    Attributes:
      ranges: key → range.
      folder: the sweep directory.
      prepare: validates the points of a sweep and returns their trials.
    """

    ranges: dict[str, Range]
    folder: Path
    prepare: Callable[[Sweep], list[Trial]]

    def next_point(self, sweep: Sweep, past: list[Past]) -> tuple[Sweep, Trial]:
        """Add a point to a sweep.

        Args:
          sweep: the sweep so far.
          past: its trials; only Optuna uses them.

        Returns:
          The sweep with one more point, and the trial of the point.

        Raises:
          InputError: all attempts give invalid points or points of the sweep.
        """
        index, taken = len(sweep.points), {point.name for point in sweep.points}
        for attempt in range(ATTEMPTS):
            if sweep.search["method"] == "random":
                values = draw(self.ranges, index, attempt)
            else:
                values = propose(self.ranges, past, index * ATTEMPTS + attempt)
            point = points.make_point(values)
            if point.name in taken:
                reason = "all points are in the search already"
                continue
            try:
                (trial,) = self.prepare(sweep._replace(points=(point,)))
            except InputError as error:
                reason = error
                continue
            return sweep._replace(points=(*sweep.points, point)), trial
        raise InputError(f"{sweep.config}: search() gives no valid new point: {reason}")

    def proposals(self, sweep: Sweep, count: int, say: Callable[[str], None]) -> Iterator[Trial]:
        """Yield new trials up to `count` points, and write each point to `sweep.json` before."""
        while len(sweep.points) < count:
            past = [remember(self.folder / point.name, point) for point in sweep.points]
            try:
                sweep, trial = self.next_point(sweep, past)
            except InputError as error:
                return say(f"the search ends with {len(sweep.points)} trials: {error}")
            folders.write(self.folder, sweep)
            yield trial


def draw(ranges: dict[str, Range], index: int, attempt: int) -> dict[str, Any]:
    """Return random values for point `index`; each value depends on its key and range only."""
    values = {}
    for key, range in ranges.items():
        name = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8])
        values[key] = range.at(np.random.default_rng([name, index, attempt]).random())
    return values


def propose(ranges: dict[str, Range], past: list[Past], seed: int) -> dict[str, Any]:
    """Return values that Optuna proposes, a function of the past trials and the seed.

    Open trials count as bad, so that concurrent trials differ.
    """
    import optuna
    from optuna.distributions import (
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )
    from optuna.trial import TrialState, create_trial

    def distribution(range):
        if range.choices:  # indices: Optuna does not accept every type of value
            return CategoricalDistribution(tuple(np.arange(len(range.choices)).tolist()))
        kind = IntDistribution if range.whole else FloatDistribution
        return kind(range.low, range.high, log=range.log)

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    distributions = {key: distribution(range) for key, range in ranges.items()}
    sampler = optuna.samplers.TPESampler(seed=seed, constant_liar=True)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    states = {"finished": TrialState.COMPLETE, "pruned": TrialState.PRUNED}
    for trial in past:
        state = states.get(trial.state, TrialState.RUNNING)
        params = {
            key: range.choices.index(trial.values[key]) if range.choices else trial.values[key]
            for key, range in ranges.items()
        }
        study.add_trial(
            create_trial(
                state=state,
                value=trial.curve[max(trial.curve)] if state == TrialState.COMPLETE else None,
                params=params,
                distributions=distributions,
                intermediate_values=trial.curve,
            )
        )
    found = study.ask(distributions).params
    return {
        key: range.choices[found[key]] if range.choices else range.plain(found[key])
        for key, range in ranges.items()
    }


def remember(path: Path, point: Point) -> Past:
    """Read the state and the evaluations of a point from its run directory."""
    pruned = folders.was_pruned(path)
    ended = folders.summary_of(path) is not None
    state = "finished" if ended else "pruned" if pruned else "open"
    return Past({**point.arguments, **point.overrides}, state, curve_of(path))


def final(path: Path) -> dict[str, float]:
    """Return the last evaluation of a finished run: `loss`, and `accuracy` if it has classes."""
    summary = folders.summary_of(path)
    names = [name for name in ("accuracy", "loss") if f"test_{name}" in summary]
    return {name: summary[f"test_{name}"] for name in names}


def curve_of(path: Path) -> Curve:
    """Return the evaluations of a run."""
    lines = json_files.read_lines(path / "metrics.jsonl")
    tests = [line for line in lines if line["split"] == "test" and implausible(line) is None]
    return {line["step"]: quality(line) for line in tests}


class Pruner:
    """Compares each running trial, after every evaluation, with the finished trials of a folder."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._finished: dict[Path, Curve] = {}
        self._compared: dict[str, int] = {}  # name of a trial → step of its last comparison

    def __call__(self, trial: Trial) -> dict[str, float] | None:
        """Return the reason to prune a trial, or `None`; see `below_median`."""
        line = folders.newest(trial.workdir / "metrics.jsonl", "test")
        step = line["step"] if line else 0
        if self._compared.get(trial.name, 0) == step or step >= trial.total_steps:
            return None
        self._compared[trial.name] = step
        for file in self._folder.glob("*/summary.json"):
            if file.parent not in self._finished:
                self._finished[file.parent] = curve_of(file.parent)
        return below_median(curve_of(trial.workdir), self._finished.values())


def below_median(curve: Curve, finished: Iterable[Curve]) -> dict[str, float] | None:
    """Compare a trial with the median of the finished trials at its newest step.

    The median stopping rule of Golovin et al. (2017, section 3.2.2), with the best evaluation up to
    the step instead of the running average.

    Returns:
      Step, best value and median if the best is below the median; `None` otherwise, or if fewer
      than `COMPARED` trials have an evaluation up to this step.
    """
    step = max(curve)
    reached = [[value for at, value in other.items() if at <= step] for other in finished]
    best = [max(values) for values in reached if values]
    if len(best) < COMPARED or max(curve.values()) >= statistics.median(best):
        return None
    return {"step": step, "best": max(curve.values()), "median": statistics.median(best)}
