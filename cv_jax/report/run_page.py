"""The page of one run."""

import sys
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from cv_jax import config as configs
from cv_jax.config.fields import FIELDS
from cv_jax.errors import one_line, printable
from cv_jax.progress import clock
from cv_jax.report import curves, differences, page, svg, timing
from cv_jax.report.run_files import RunFiles, read
from cv_jax.report.tables import size_in_words

_SECTIONS = (  # id in the page, title
    ("run", "What was run"),
    ("curves", "Curves"),
    ("time", "Throughput and time"),
    ("batch", "Training batch"),
    ("evaluation", "Evaluation"),
    ("network", "Inside the network"),
)
EXAMPLES = 2048  # images of the evaluation split that are predicted


def write(
    path: Path, file: Path | None = None, *, pictures: bool = True, examples: int = EXAMPLES
) -> RunFiles:
    """Write the page of a run, and return what its records say.

    Args:
      path: the run directory; also of an unfinished, damaged or empty run.
      file: the page; default: `report.html` in the run directory.
      pictures: whether to draw what needs the network or its data.
      examples: most images of the evaluation split that are predicted.

    Raises:
      InputError: the path holds no run, or the page cannot be written.
    """
    file = path / page.FILE if file is None else file
    page.require_replaceable(file)
    run = read(path)
    with svg.theme(), ThreadPoolExecutor(2) as pool:
        begun = _begin(run, examples, pool) if pictures and run.config else None
        text = page.render("run.html", run.name, **_records(run), **_pictures(run, begun))
    page.write(file, text)
    return run


def write_at_end(path: Path, pictures: bool) -> None:
    """Write the page of a run that has just ended; a failure is printed and changes nothing."""
    try:
        write(path, pictures=pictures)
    except Exception as error:
        reason = one_line(f"{type(error).__name__}: {error}", 300)
        print(
            f"no report was written; python -m cv_jax report tries again; {reason}", file=sys.stderr
        )
    else:
        print(printable(f"report: {path / page.FILE}"))


def _records(run: RunFiles) -> dict[str, Any]:
    """Return the variables of the template that come from the records."""
    spent = timing.parts(run)
    total = sum(part.seconds for part in spent)
    recipe = differences.of_recipe(run)
    found = recipe.differences or []
    return {
        "run": run,
        "finished": bool(run.summary) and not run.damage,
        "running": run.state.startswith("running"),
        "tiles": _tiles(run, total),
        "facts": _facts(run),
        "starts": [_start(start) for start in run.starts],
        "recipe": recipe,
        "recipe_rows": [(row.field, *row.values, row.meaning) for row in found],
        "config_rows": _config_rows(run),
        "over_steps": curves.over_steps([run]),
        "over_time": curves.over_time([run]),
        "throughput": curves.throughput([run]),
        "time_parts": [{"share": f"{part.seconds / total:.4f}"} for part in spent if total],
        "time_rows": [
            (part.name, clock(part.seconds), f"{part.seconds / total:.1%}")
            for part in spent
            if total
        ],
    }


def _tiles(run: RunFiles, seconds: float) -> list[tuple[str, str, str]]:
    """Return name, value and remark of the numbers at the top."""
    tests = [line for line in run.lines if line["split"] == "test"]
    tiles = []
    if tests:
        last = tests[-1]
        if "accuracy" in last:
            counted = {"correct", "count"} <= last.keys()
            counts = f"{last['correct']} of {last['count']}" if counted else ""
            tiles.append(("test accuracy", f"{last['accuracy']:.2%}", counts))
            best = max(tests, key=lambda line: line.get("accuracy", 0))
            if best is not last:
                tiles.append(
                    ("best test accuracy", f"{best['accuracy']:.2%}", f"step {best['step']}")
                )
        if "loss" in last:
            tiles.append(("test loss", f"{last['loss']:.4f}", ""))
    of = f"of {run.total_steps:,}" if run.total_steps else ""
    epochs = f"{run.step / run.epoch:.1f} epochs" if run.epoch else ""
    tiles.append(("steps", f"{run.step:,}", ", ".join(filter(None, (of, epochs)))))
    for name in ("parameters", "multiply_adds"):
        if name in run.summary:
            per = "per image" if name == "multiply_adds" else ""
            tiles.append((name.replace("_", "-"), size_in_words(run.summary[name]), per))
    if seconds:
        tiles.append(
            ("time", clock(seconds), f"{len(run.starts)} starts" if run.starts[1:] else "")
        )
    _, speeds = timing.speeds(run.times, run.config.get("batch_size") or 0)
    if len(speeds):
        tiles.append(("images per second", f"{sorted(speeds)[len(speeds) // 2]:,.0f}", "median"))
    used = [line["utilisation"] for line in run.times if "utilisation" in line]
    if used:
        tiles.append(("utilisation", f"{used[-1]:.1%}", "of the peak"))
    return tiles


def _facts(run: RunFiles) -> list[tuple[str, str]]:
    """Return names and values of what identifies the run and its conditions."""
    names = [name for name in ("model.name", "data.name", "seed") if name in run.config]
    facts = [("directory", str(run.path))]
    facts += [(name.removesuffix(".name"), differences.show(run.config[name])) for name in names]
    if not run.starts:
        return facts
    start = run.starts[-1]
    named = (
        ("commit", start.get("commit") or "unknown"),
        ("digest of the code", start.get("code")),
        ("devices", in_words(start.get("devices"))),
        ("processes", start.get("processes")),
        ("processor", start.get("processor")),
        ("CPU threads", start.get("cpu_threads")),
        ("Python", start.get("python")),
        ("versions", in_words(start.get("versions"))),
        ("XLA flags", start.get("xla_flags")),
        ("options of the compiler", in_words(start.get("compiler_options"))),
        ("JAX settings", in_words(start.get("jax_settings"))),
        ("variables", in_words(start.get("variables"))),
        ("begun", run.starts[0].get("time")),
    )
    return facts + [(name, str(value)) for name, value in named if value not in (None, "")]


def in_words(value: Any) -> str:
    """Return a value of run.json as text; equal devices are counted."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {item}" for name, item in value.items())
    if isinstance(value, list):
        kinds = dict.fromkeys(map(str, value))
        return ", ".join(f"{list(map(str, value)).count(kind)} {kind}" for kind in kinds)
    return "" if value is None else str(value)


def _start(start: dict[str, Any]) -> tuple[str, ...]:
    command = " ".join(map(str, start.get("command", [])))
    commit = str(start.get("commit") or "unknown")[:12]
    return (str(start.get("time", "")), str(start.get("step", "")), commit,
            in_words(start.get("devices")), command)  # fmt: skip


def _config_rows(run: RunFiles) -> list[tuple[str, str, str, str]]:
    return [
        (
            name,
            differences.show(value),
            configs.kind(name),
            FIELDS[name].meaning if name in FIELDS else "",
        )
        for name, value in sorted(run.config.items())
    ]


# ---- Pictures


class _Begun(NamedTuple):
    """What two threads compute while this one draws: most of it is time of the compiler."""

    opened: dict[str, Any]
    batch: Future
    predicted: Future | None


def _begin(run: RunFiles, examples: int, pool: ThreadPoolExecutor) -> _Begun:
    """Open the network, and begin what needs no drawing; figures are drawn in one thread only."""
    from cv_jax.report import net_sections, trained_net

    batch = pool.submit(net_sections.training_batch, run)
    opened = _attempt(net_sections.open_net, run)
    if opened["reason"]:
        return _Begun(opened, batch, None)
    net, source = opened["net"], opened["source"]
    return _Begun(opened, batch, pool.submit(trained_net.predict, net, source, examples))


def _pictures(run: RunFiles, begun: _Begun | None) -> dict[str, Any]:
    """Return the variables of the template that need the network or its data."""
    if begun is None:
        return {"pictures": False, "sections": _SECTIONS[:3]}
    from cv_jax.devices import compile_options
    from cv_jax.report import net_sections

    opened = evaluation = network = begun.opened
    if not opened["reason"]:
        with compile_options.hasty():
            network = _attempt(net_sections.inside, opened)
        evaluation = _attempt(net_sections.evaluation, opened, begun.predicted.result)
    return {
        "pictures": True,
        "sections": _SECTIONS,
        "augment_text": run.config.get("augment", ""),
        "batch": _attempt(begun.batch.result),
        "evaluation": evaluation,
        "network": network,
    }


def _attempt(make: Callable[..., dict], *arguments: Any) -> dict[str, Any]:
    """Return a part of the page; after an error only its reason: a page is always written."""
    try:
        return {"reason": "", **make(*arguments)}
    except Exception as error:
        return {"reason": one_line(error, 300), "findings": [], "failed": []}
