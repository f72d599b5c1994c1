"""What a chapter is made of."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.figure import Figure

from cv_jax.course.verdict import Verdict


class Study(NamedTuple):
    """A sweep that a chapter needs.

    Attributes:
      name: folder of the trials, unique in the course.
      file: name of the config file in `configs/experiments`.
      arguments: dataset → argument of the config file; a dataset without one cannot be run.
        "{out}" is the folder of all studies, also in `overrides`.
      sweep: name of the generator of points; "" for `sweep()`.
      seeds: number of seeds by default.
      executor: "slots", or "vmap" where all trials have one program.
      needs: names of studies whose trials this one starts from.
      overrides: config field → text for all points.
    """

    name: str
    file: str
    arguments: Mapping[str, str]
    sweep: str = ""
    seeds: int = 3
    executor: str = "slots"
    needs: tuple[str, ...] = ()
    overrides: Mapping[str, str] = {}


class Trial(NamedTuple):
    """A finished trial, as a verdict reads it.

    Attributes:
      study: name of its study.
      values: swept key → value, without the seed.
      seed: its seed.
      metrics: name → number: those of the run's records (`test_accuracy`, `train_eval_accuracy`,
        `parameters`, …) and those that the chapter measures in the network.
    """

    study: str
    values: Mapping[str, Any]
    seed: int
    metrics: Mapping[str, float]


class Picture(NamedTuple):
    """A picture with its title, and one or two sentences that say what it shows."""

    title: str
    text: str
    figure: Figure


class Runs(NamedTuple):
    """The finished trials of a chapter, and where their run directories are.

    Attributes:
      trials: the trials.
      folder: (study, trial) → run directory.
    """

    trials: list[Trial]
    folder: Callable[[Trial], Path]

    def path(self, study: str, seed: int = 0, **values: Any) -> Path:
        """Return the run directory of a trial.

        Raises:
          LookupError: there is no such finished trial.
        """
        for trial in select(self.trials, study, **values):
            if trial.seed == seed:
                return self.folder(trial)
        wanted = ", ".join(f"{k}={v}" for k, v in {**values, "seed": seed}.items())
        raise LookupError(f"the trial {wanted} of {study} is not finished")


class Chapter(NamedTuple):
    """A chapter of the course.

    Attributes:
      name: on the command line and in addresses.
      title: headline.
      claim: one sentence.
      background: who claimed it, and the reason that they gave.
      studies: the sweeps.
      verdict: trials → verdict; a pure function.
      pictures: functions runs → picture; the first picture stands beside the verdict.
      columns: metric → heading of the tables.
      findings: dataset → what the recorded runs showed and why, as far as it was found out; written
        after the runs and shown beside any runs of the dataset.
      measure: (study, run directory) → numbers from inside a trained network, for `verdict`; `None`
        if the records of the run are enough.
    """

    name: str
    title: str
    claim: str
    background: str
    studies: tuple[Study, ...]
    verdict: Callable[[list[Trial]], Verdict]
    pictures: tuple[Callable[[Runs], Picture], ...]
    columns: Mapping[str, str]
    findings: Mapping[str, str] = {}
    measure: Callable[[str, Path], dict[str, float]] | None = None


def select(trials: list[Trial], study: str | None = None, **values: Any) -> list[Trial]:
    """Return the trials of a study, or of all, with these swept values.

    A dot in a key is written as two underscores: `model__patch_size`.
    """
    wanted = {key.replace("__", "."): value for key, value in values.items()}
    return [
        trial
        for trial in trials
        if study in (None, trial.study)
        and all(trial.values.get(key) == value for key, value in wanted.items())
    ]


def by_seed(
    trials: list[Trial], metric: str, study: str | None = None, **values: Any
) -> dict[int, float]:
    """Return seed → metric of the trials that `select` finds; a seed without it is left out.

    Raises:
      ValueError: two trials have the same seed, so the values do not name one setting.
    """
    found: dict[int, float] = {}
    for trial in select(trials, study, **values):
        if metric in trial.metrics:
            if trial.seed in found:
                raise ValueError(f"{values} names several settings of {study or 'all studies'}")
            found[trial.seed] = trial.metrics[metric]
    return found
