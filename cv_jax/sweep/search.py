"""Searches: points that are drawn from declared ranges, and hopeless trials stopped early.

A config file defines, beside `get_config(arg)`,

    from cv_jax.sweep.ranges import choice, integer, log_uniform, uniform

    def search():
        return {
            "optim.learning_rate": log_uniform(1e-4, 1e-1),
            "optim.name": choice("adamw", "sgd"),
            "depth": integer(2, 12),
        }

with keys as in the points of a sweep. `--search` draws at random: point `i` is a function of `i`
and the ranges. `--search=optuna` proposes each point from all results so far (a tree-structured
Parzen estimator; Bergstra et al., 2011, section 4). Its study is made anew from the folder for
every proposal, and so is as safe as the runs in it. A point that cannot be, such as a width that
the heads do not divide, is drawn anew.

What is maximised is the accuracy on `data.eval_split` (or the negated loss): to keep the test
images for the end, train on `train[:90%]` and evaluate on `train[90%:]`.
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
from cv_jax.evaluation.metrics import quality
from cv_jax.run import json_files
from cv_jax.sweep import folder as folders
from cv_jax.sweep import points
from cv_jax.sweep.folder import Trial
from cv_jax.sweep.points import Point, Sweep
from cv_jax.sweep.ranges import Range

METHODS = ("random", "optuna")
ATTEMPTS = 50  # in a row to draw a new point that can be
COMPARED = 5  # finished trials, before one can be hopeless

Curve = dict[int, float]  # step → quality of the evaluation there


class Past(NamedTuple):
    """A trial as the next proposal sees it.

    Attributes:
      values: of its point.
      state: "finished", "pruned", or "open" if it trains, has failed or has not begun.
      curve: its evaluations.
    """

    values: dict[str, Any]
    state: str
    curve: Curve


def read(reference: str, overrides: dict[str, str], method: str) -> tuple[Sweep, dict[str, Range]]:
    """What a config file's `search()` declares: a sweep without points yet, and the ranges.

    Raises:
      InputError: there is no `search()`, it fails, a key or value of it cannot be, or Optuna is
        asked for and not installed.
    """
    if method not in METHODS:
        raise InputError(f"--search={method}: allowed are {', '.join(METHODS)}")
    if method == "optuna" and importlib.util.find_spec("optuna") is None:
        raise InputError('--search=optuna: optuna is not installed; pip install "cv_jax[search]"')
    path, _, argument = reference.partition(":")
    declare = getattr(configs.run_file(Path(path)), "search", None)
    if not inspect.isfunction(declare):
        raise InputError(f"--search: {path} defines no search()")
    with configs.mistakes_of(Path(path)):
        ranges = declare(argument) if inspect.signature(declare).parameters else declare()
    where = f"{path}: search()"
    if not isinstance(ranges, dict) or not ranges:
        raise InputError(f"{where} must return a dict of ranges")
    for key, range in ranges.items():
        if not isinstance(range, Range):
            raise InputError(f"{where}: {key} is no range; see cv_jax/sweep/ranges.py")
        for value in range.choices or (range.low,):
            points.plain(where, {key: value})
    points.check_conflicts(points.make_point(draw(ranges, 0, 0)), argument, overrides)
    declared = {key: range._asdict() for key, range in ranges.items()}
    search = {"method": method, "ranges": declared}
    return Sweep(path, argument, dict(overrides), (), search), ranges


def next_point(
    sweep: Sweep,
    ranges: dict[str, Range],
    past: list[Past],
    prepare: Callable[[Sweep], list[Trial]],
) -> tuple[Sweep, Trial]:
    """The sweep with one point more, and its trial.

    Args:
      sweep: with the points that are there already.
      ranges: of the search.
      past: what became of these points; only Optuna looks at it.
      prepare: checks the points of a sweep and makes trials of them.

    Raises:
      InputError: all attempts gave points that are there already or cannot be.
    """
    index, taken = len(sweep.points), {point.name for point in sweep.points}
    for attempt in range(ATTEMPTS):
        if sweep.search["method"] == "random":
            values = draw(ranges, index, attempt)
        else:
            values = propose(ranges, past, index * ATTEMPTS + attempt)
        point = points.make_point(values)
        if point.name in taken:
            reason = "all are there already"
            continue
        try:
            (trial,) = prepare(sweep._replace(points=(point,)))
        except InputError as error:
            reason = error
            continue
        return sweep._replace(points=(*sweep.points, point)), trial
    raise InputError(f"{sweep.config}: search() gives no new point that can be: {reason}")


def draw(ranges: dict[str, Range], index: int, attempt: int) -> dict[str, Any]:
    """Point `index`. Each value depends on its own name, not on the other ranges."""
    values = {}
    for key, range in ranges.items():
        name = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8])
        values[key] = range.at(np.random.default_rng([name, index, attempt]).random())
    return values


def propose(ranges: dict[str, Range], past: list[Past], seed: int) -> dict[str, Any]:
    """A point of Optuna's choice, a function of the past and the seed.

    Trials that are open count as bad ones, so that several at a time differ.
    """
    import optuna
    from optuna.distributions import (
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )
    from optuna.trial import TrialState, create_trial

    def distribution(range):
        if range.choices:  # by their places: not every value is one that Optuna takes
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


def proposals(
    sweep: Sweep,
    ranges: dict[str, Range],
    count: int,
    folder: Path,
    prepare: Callable[[Sweep], list[Trial]],
    say: Callable[[str], None],
) -> Iterator[Trial]:
    """New trials up to `count` points, each drawn when it is asked for and kept in `sweep.json`."""
    while len(sweep.points) < count:
        past = [remember(folder / point.name, point) for point in sweep.points]
        try:
            sweep, trial = next_point(sweep, ranges, past, prepare)
        except InputError as error:
            return say(f"the search ends with {len(sweep.points)} trials: {error}")
        folders.write(folder, sweep)
        yield trial


def remember(path: Path, point: Point) -> Past:
    """What became of a point, from its run directory."""
    pruned = (path / "pruned.json").is_file()
    ended = folders.summary_of(path) is not None
    state = "finished" if ended else "pruned" if pruned else "open"
    return Past({**point.arguments, **point.overrides}, state, curve_of(path))


def final(path: Path) -> dict[str, float]:
    """The last evaluation of a finished run: `accuracy`, if it has one, and `loss`."""
    summary = folders.summary_of(path)
    names = [name for name in ("accuracy", "loss") if f"test_{name}" in summary]
    return {name: summary[f"test_{name}"] for name in names}


def curve_of(path: Path) -> Curve:
    """The evaluations of a run."""
    lines = json_files.read_lines(path / "metrics.jsonl")
    return {line["step"]: quality(line) for line in lines if line["split"] == "test"}


def hopeless(folder: Path) -> Callable[[Trial], dict[str, float] | None]:
    """Judges running trials by the finished ones of a folder, whenever they were evaluated.

    Returns:
      A function that says why a trial shall be given up, or none.
    """
    finished: dict[Path, Curve] = {}
    judged: dict[str, int] = {}

    def judge(trial):
        line = folders.newest(trial.workdir / "metrics.jsonl", "test")
        step = line["step"] if line else 0
        if judged.get(trial.name, 0) == step or step >= trial.total_steps:
            return None
        judged[trial.name] = step
        for file in folder.glob("*/summary.json"):
            if file.parent not in finished:
                finished[file.parent] = curve_of(file.parent)
        return below_median(curve_of(trial.workdir), finished.values())

    return judge


def below_median(curve: Curve, finished: Iterable[Curve]) -> dict[str, float] | None:
    """Why a trial is hopeless: its best so far is below the median of what the finished ones had
    reached by that step. None if it is not, or if fewer than `COMPARED` had been evaluated by then.

    After the median stopping rule of Golovin et al., 2017, section 3.2.2, whose finished trials
    are compared by their running averages; here by their best, as trials are in the end.
    """
    step = max(curve)
    reached = [[value for at, value in other.items() if at <= step] for other in finished]
    best = [max(values) for values in reached if values]
    if len(best) < COMPARED or max(curve.values()) >= statistics.median(best):
        return None
    return {"step": step, "best": max(curve.values()), "median": statistics.median(best)}
