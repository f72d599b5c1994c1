"""Faults of the finished trials of a sweep: a report counts a true result, or says why it does not.

`FAULTS` is like that of `stored_faults`.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from fault_injection import CaseFailed, flip_bit, truncate
from stored_faults import (
    RECORDS,
    append,
    draw_file,
    edit,
    empty,
    remove,
    replace_by_entry,
    write_hostile,
)
from trained_runs import RUNS, STEPS, Case, Struck, called

from cv_jax.errors import ExitCode
from cv_jax.report import results, settings, tables
from cv_jax.run import json_files
from cv_jax.sweep import folder as folders
from cv_jax.sweep.points import Point, Sweep, make_point

TRIALS = ("own", "other", "wide")
SWEPT = ("seed", "model.widths", "ema.decay", "augment")


def _points() -> dict[str, Point]:
    values = {name: RUNS[name][1] for name in TRIALS}
    return {
        name: make_point({key: fields[key] for key in SWEPT if key in fields} | _seed(fields))
        for name, fields in values.items()
    }


def _seed(fields: dict) -> dict:
    return {"seed": fields.get("seed", 0)}


def _copy(case: Case) -> dict[str, Path]:
    """Write a sweep whose trials are finished runs; return their folders."""
    root, points = case.folder / "sweep", _points()
    root.mkdir()
    folders.write(root, Sweep("configs/mlp.py", "", {}, tuple(points.values())))
    for name, point in points.items():
        shutil.copytree(case.trained[name].path, root / point.name, ignore=_older)
    return {name: root / point.name for name, point in points.items()}


def _older(folder: str, names: list[str]) -> list[str]:
    """A report reads the newest checkpoint only."""
    return [str(step) for step in range(1, STEPS)] if Path(folder).name == "checkpoints" else []


def _true(case: Case, name: str) -> dict[str, float]:
    """Return the last metrics of a run, from its metric lines."""
    lines = map(json.loads, case.trained[name].texts["metrics.jsonl"].splitlines())
    return {
        f"{line['split']}_{metric}": line[metric]
        for line in lines
        if line["step"] == STEPS
        for metric in ("accuracy", "loss")
    }


def _fault(strike: Callable) -> Callable[[Case], Struck]:
    """Return a fault that strikes some trials; `strike` returns their names, and the details."""

    def fault(case: Case) -> Struck:
        paths = _copy(case)
        touched, what = strike(case, paths)
        found = []

        def read():
            found.extend(results.read(case.folder / "sweep")[1])
            tables.of_settings(settings.group(found))
            return 0

        try:
            code, said = called(read)
        except CaseFailed as error:
            raise CaseFailed(f"{error}, after {what}") from error
        if code:
            if code != ExitCode.MISTAKE or "sweep.json" not in said:
                raise CaseFailed(f"wrong: {what}: {said}")
            return Struck(what, told="after advice")
        names = {path.name: name for name, path in paths.items()}
        for result in found:
            _require_true(case, result, names.get(result.name), touched, what)
        counted = sum(result.state == results.DONE for result in found)
        return Struck(what, told="at once" if counted == len(TRIALS) else "after advice")

    return fault


def _require_true(case, result, name, touched, what) -> None:
    if not result.state.isprintable():
        raise CaseFailed(f"wrong: {what}: the state {result.state!r}")
    if result.state != results.DONE:
        if result.metrics or (name is not None and name not in touched):
            raise CaseFailed(f"lost: {what}: {result.name}: {result.state}")
        return
    true = _true(case, name) if name else {}
    wrong = {key: result.metrics.get(key) for key in true if result.metrics.get(key) != true[key]}
    if wrong or not true:
        raise CaseFailed(f"wrong: {what}: {result.name}: {wrong}")


def _one(case: Case, paths: dict[str, Path]) -> tuple[str, Path]:
    name = case.draw.choice(TRIALS)
    return name, paths[name]


def damage(case: Case, paths: dict[str, Path]):
    """Damage one file of a trial."""
    name, path = _one(case, paths)
    file = draw_file(path, case.draw)
    kinds = (flip_bit, truncate, empty, remove, replace_by_entry, write_hostile, append)
    what = case.draw.choice(kinds)(file, case.draw)
    return {name}, f"{name}/{file.relative_to(path)} {what}"


def edited(case: Case, paths: dict[str, Path]):
    """Change a value in a record of a trial."""
    name, path = _one(case, paths)
    file = draw_file(path, case.draw, json_only=True)
    return {name}, f"{name}/{file.relative_to(path)} {edit(file, case.draw)}"


def forged(case: Case, paths: dict[str, Path]):
    """Change a result in the summary and in the metric lines; the summary is sealed again."""
    name, path = _one(case, paths)
    metric = case.draw.choice(["test_accuracy", "test_loss", "train_loss", "train_accuracy"])
    value = case.draw.choice([5.0, -0.5, float("nan"), float("inf"), "1", None, True])
    record = json_files.read_record(path / "summary.json")
    json_files.write_record(path / "summary.json", {**record, metric: value})
    if case.draw.random() < 0.5:
        split, key = metric.split("_")
        lines = json_files.read_lines(path / "metrics.jsonl")
        lines = [{**x, key: value} if x["split"] == split else x for x in lines]
        (path / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    return {name}, f"{name}: {metric} is {value!r}"


def exchange_trials(case: Case, paths: dict[str, Path]):
    """Exchange two trials, or put one in the place of another."""
    a, b = case.draw.sample(TRIALS, 2)
    if case.draw.random() < 0.5:
        paths[a].rename(case.folder / "between")
        paths[b].rename(paths[a])
        (case.folder / "between").rename(paths[b])
        return {a, b}, f"{a} ↔ {b}"
    shutil.rmtree(paths[a])
    if case.draw.random() < 0.5:
        paths[b].rename(paths[a])
    else:
        shutil.copytree(paths[b], paths[a])
        return {a}, f"{b} copied to {a}"
    return {a, b}, f"{b} renamed to {a}"


def exchange_records(case: Case, paths: dict[str, Path]):
    """Exchange one or two records of two trials."""
    a, b = case.draw.sample(TRIALS, 2)
    names = case.draw.sample(RECORDS, case.draw.randint(1, 2))
    for name in names:
        (paths[a] / name).rename(case.folder / "between")
        (paths[b] / name).rename(paths[a] / name)
        (case.folder / "between").rename(paths[b] / name)
    return {a, b}, f"{' and '.join(names)} of {a} ↔ {b}"


def damage_sweep(case: Case, paths: dict[str, Path]):
    """Damage `sweep.json`."""
    file = case.folder / "sweep" / "sweep.json"
    kinds = (edit, flip_bit, truncate, empty, remove, replace_by_entry, write_hostile)
    return set(TRIALS), f"sweep.json {case.draw.choice(kinds)(file, case.draw)}"


FAULTS: dict[str, Callable[[Case], Struck]] = {
    "damaged file of a trial": _fault(damage),
    "edited value in a record of a trial": _fault(edited),
    "result of a trial out of its range": _fault(forged),
    "trials exchanged or renamed": _fault(exchange_trials),
    "records of two trials exchanged": _fault(exchange_records),
    "damaged sweep.json": _fault(damage_sweep),
}
