"""Reads the trials of a chapter from its sweep directories, and measures in their networks.

What a chapter measures in a network is written beside the run directory, `TRIAL.measured.json`,
with digests of the run's summary and of the chapter's file. It is measured again after either
changes.
"""

import hashlib
import inspect
from pathlib import Path
from typing import NamedTuple

from cv_jax.course.chapter import Chapter, Runs, Study, Trial
from cv_jax.errors import InputError, RunError, one_line
from cv_jax.progress import counted
from cv_jax.report import results
from cv_jax.report.results import NOT_COUNTED, Result
from cv_jax.run import json_files
from cv_jax.sweep.points import Sweep


class Found(NamedTuple):
    """The trials of a study.

    Attributes:
      study: the study.
      folder: its sweep directory.
      sweep: its sweep; `None` if it has not begun.
      results: all its trials, with the metrics of the records and of `Chapter.measure`.
      notes: a line for each trial that could not be measured.
    """

    study: Study
    folder: Path
    sweep: Sweep | None
    results: list[Result]
    notes: list[str]

    @property
    def done(self) -> list[Result]:
        """The finished trials."""
        return [result for result in self.results if result.metrics]

    @property
    def not_counted(self) -> list[str]:
        """A line for each finished trial that cannot be believed."""
        wrong = [r for r in self.results if r.state.startswith(NOT_COUNTED)]
        return [f"{self.study.name}, {r.name}: {r.state}" for r in wrong]


def read(chapter: Chapter, out: Path) -> list[Found]:
    """Read all studies of a chapter; a study that has not begun has no trials."""
    return [_read(chapter, study, out / study.name) for study in chapter.studies]


def runs(found: list[Found]) -> Runs:
    """Return the finished trials of the studies of a chapter."""
    folders, trials = {}, []
    for one in found:
        for result in one.done:
            trial = Trial(one.study.name, result.values, result.seed, result.metrics)
            trials.append(trial)
            folders[id(trial)] = one.folder / result.name
    return Runs(trials, lambda trial: folders[id(trial)])


def _read(chapter: Chapter, study: Study, folder: Path) -> Found:
    if not (folder / "sweep.json").is_file():
        return Found(study, folder, None, [], [])
    sweep, found = results.read(folder)
    notes = []
    if chapter.measure is not None:
        measured = []
        for result in counted(found, f"measuring {study.name}"):
            try:
                more = _measured(chapter, study, folder, result) if result.metrics else {}
            except (InputError, RunError, OSError, ValueError, LookupError) as error:
                more = {}
                notes.append(f"{study.name}, {result.name}: not measured: {one_line(error, 200)}")
            measured.append(result._replace(metrics={**result.metrics, **more}))
        found = measured
    return Found(study, folder, sweep, found, notes)


def _measured(chapter: Chapter, study: Study, folder: Path, result: Result) -> dict[str, float]:
    """Return what the chapter measures in a network, from its file if that is current."""
    file = folder / f"{result.name}.measured.json"
    code = inspect.getsource(inspect.getmodule(chapter.measure)).encode()
    summary = (folder / result.name / "summary.json").read_bytes()
    key = {name: hashlib.sha256(x).hexdigest() for name, x in (("code", code), ("run", summary))}
    try:
        stored = json_files.read_record(file)
        if {name: stored.get(name) for name in key} == key:
            return stored["values"]
    except (FileNotFoundError, json_files.Damaged):
        pass
    values = {k: float(v) for k, v in chapter.measure(study.name, folder / result.name).items()}
    json_files.write_record(file, {**key, "values": values})
    return values
