"""The page of a sweep, and the page of several runs."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from cv_jax.errors import printable
from cv_jax.progress import clock, counted
from cv_jax.report import curves, differences, figures, page, run_page, svg, tables, timing
from cv_jax.report.results import NOT_COUNTED, Result
from cv_jax.report.run_files import RunFiles, read
from cv_jax.report.settings import Setting, show
from cv_jax.report.tables import size_in_words

COLOURS = 8  # of runs; further runs begin again

# ---- A sweep


def write_sweep(
    folder: Path,
    file: Path,
    title: str,
    facts: Sequence[tuple[str, str]],
    found: list[Result],
    groups: list[Setting],
    metric: str | None,
) -> None:
    """Write the page of a sweep; every trial with a page of its own is a link to it.

    Args:
      folder: the sweep directory.
      file: the page.
      title: of the page.
      facts: names and values of what the trials share.
      found: the trials.
      groups: the trials by setting.
      metric: metric of the comparisons; `None` if no trial is done.

    Raises:
      InputError: the page cannot be written.
    """
    page.require_replaceable(file)
    with svg.theme():
        figure = figures.figure(groups)
        picture = None if figure is None else svg.to_svg(figure, f"Results of {title}")
    names = list(found[0].values)
    shown = [name for name in _metrics(found) if name != "seconds"]
    text = page.render(
        "sweep.html",
        title,
        facts=facts,
        damage=[f"{r.name}: {r.state}" for r in found if r.state.startswith(NOT_COUNTED)],
        settings=tables.of_settings(groups),
        comparisons=tables.of_comparisons(groups, metric) if metric else None,
        figure=picture,
        trials_head=[
            "trial",
            "state",
            *names,
            "seed",
            *(n.replace("_", " ") for n in shown),
            "time",
        ],
        trials=[_trial(folder, file, result, names, shown) for result in found],
    )
    page.write(file, text)


def write_trials(folder: Path, found: list[Result], pictures: bool) -> None:
    """Write the page of every trial that has begun, unless a newer page is there.

    A sweep that cannot be written, such as one on a read-only disk, keeps the pages that it has.
    """
    if not os.access(folder, os.W_OK):
        print(printable(f"{folder} cannot be written: its trials get no new pages"))
        return
    for result in counted(found, "writing the pages of trials"):
        path = folder / result.name
        begun = any(path.glob("*.json*"))
        if begun and (pictures or not _is_current(path)):
            run_page.write(path, pictures=pictures)


def _is_current(path: Path) -> bool:
    """Whether the page of a run is newer than its records."""
    written = path / page.FILE
    files = [path / name for name in ("metrics.jsonl", "run.json", "summary.json", "config.json")]
    times = [file.stat().st_mtime for file in files if file.exists()]
    return written.is_file() and written.stat().st_mtime > max(times, default=0)


def _metrics(found: list[Result]) -> list[str]:
    """Return the metrics of the table of trials: accuracies, or else losses, then sizes."""
    known = list(dict.fromkeys(name for result in found for name in result.metrics))
    scores = [name for name in known if name.endswith("_accuracy")]
    scores = scores or [name for name in known if name.endswith("_loss")]
    scores.sort(key=lambda name: not name.startswith("test_"))
    return scores + [n for n in ("parameters", "multiply_adds", "images_per_second") if n in known]


def _trial(folder: Path, file: Path, result: Result, names: list[str], shown: list[str]) -> dict:
    seconds = result.metrics.get("seconds")
    cells = [
        result.state,
        *(show(result.values[name]) for name in names),
        "" if result.seed is None else str(result.seed),
        *(_cell(name, result.metrics.get(name)) for name in shown),
        "" if seconds is None else clock(seconds),
    ]
    return {"name": result.name, "link": _link(file, folder / result.name), "cells": cells}


def _link(file: Path, run: Path) -> str:
    """Return the address of a run's page relative to a page; "" without one."""
    own = run / page.FILE
    if not own.is_file():
        return ""
    return quote(os.path.relpath(own.resolve(), file.resolve().parent))


def _cell(name: str, value: Any) -> str:
    if value is None:
        return ""
    if name.endswith("_accuracy"):
        return f"{value:.2%}"
    if name in ("parameters", "multiply_adds"):
        return size_in_words(value)
    return f"{value:,.0f}" if name == "images_per_second" else f"{value:.4f}"


# ---- Several runs


def write_runs(paths: Sequence[Path], file: Path) -> list[RunFiles]:
    """Write the page of several runs: their curves over each other, and what differs.

    Raises:
      InputError: a path holds no run, or the page cannot be written.
    """
    page.require_replaceable(file)
    runs = _with_own_names([read(path) for path in paths])
    found = differences.between(runs)
    with svg.theme():
        chart = curves.throughput(runs)
        text = page.render(
            "runs.html",
            ", ".join(run.name for run in runs[:3])
            + (f" and {len(runs) - 3} more" if runs[3:] else ""),
            damage=[f"{run.name}: {line}" for run in runs for line in run.damage],
            head=["run", "state", "test accuracy", "test loss", "parameters", "time", "images/s"],
            rows=[_run(file, run, i % COLOURS) for i, run in enumerate(runs)],
            names=[run.name for run in runs],
            differences=found,
            difference_rows=[(row.field, *row.values) for row in found],
            over_steps=curves.over_steps(runs),
            over_time=curves.over_time(runs),
            throughput=chart,
        )
    page.write(file, text)
    return runs


def _with_own_names(runs: list[RunFiles]) -> list[RunFiles]:
    """Name runs of equal names by their paths."""
    names = [run.name for run in runs]
    return [run._replace(title=str(run.path)) if names.count(run.name) > 1 else run for run in runs]


def _run(file: Path, run: RunFiles, colour: int) -> dict[str, Any]:
    tests = [line for line in run.lines if line["split"] == "test"]
    last = tests[-1] if tests else {}
    _, speeds = timing.speeds(run.times, run.config.get("batch_size") or 0)
    seconds = sum(part.seconds for part in timing.parts(run))
    cells = [
        run.state,
        f"{last['accuracy']:.2%}" if "accuracy" in last else "",
        f"{last['loss']:.4f}" if "loss" in last else "",
        size_in_words(run.summary["parameters"]) if "parameters" in run.summary else "",
        clock(seconds) if seconds else "",
        f"{sorted(speeds)[len(speeds) // 2]:,.0f}" if len(speeds) else "",
    ]
    return {"name": run.name, "link": _link(file, run.path), "cells": cells, "colour": colour}
