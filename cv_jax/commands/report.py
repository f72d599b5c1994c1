"""`python -m cv_jax report RUN`, `report SWEEP` or `report RUN RUN…`: results so far, as a page.

RUN: writes RUN/report.html: what was run, curves, throughput, the training batch, errors, and what
the network has learnt. Also of a run that is unfinished or damaged.

SWEEP: prints a table of the settings (mean ± standard deviation over seeds), comparisons between
settings with the same seeds, and the unfinished trials. SWEEP/report gets the same text,
report.html, settings.csv, trials.csv and a figure selected by the swept keys. Every trial that has
begun gets a page of its own; in a sweep of more than 100 trials only with --pages.

RUN RUN…: writes report/report.html: the curves over each other, and the difference of the configs.
"""

import argparse
from pathlib import Path

from cv_jax import paths
from cv_jax.commands import option_types
from cv_jax.config.values import LARGEST
from cv_jax.errors import InputError, Parser, RunError, printable

MOST_PAGES = 100  # trials whose pages are written unasked; pages take most of the time
EXAMPLES = 2048  # as `run_page.EXAMPLES`, which imports the network


def main(arguments: list[str]) -> int:
    """Print and write the report; an earlier report is replaced.

    Raises:
      InputError: a folder holds neither a sweep nor a run, no trial has the metric, or --out is not
        a folder.
      RunError: records are damaged; the report is written and names them.
    """
    options = _parse(arguments)
    for folder in options.folders:
        if not folder.is_dir():
            raise InputError(f"{folder} is not a folder; give a run directory or a sweep directory")
    first = options.folders[0]
    if len(options.folders) > 1:
        sweeps = [folder for folder in options.folders if _is_sweep(folder)]
        if sweeps:
            raise InputError(f"{sweeps[0]} is a sweep; several folders must be runs")
        return _runs(options)
    return _sweep(options) if _is_sweep(first) else _run(options)


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = Parser(
        prog="python -m cv_jax report",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "folders",
        nargs="+",
        type=option_types.path,
        metavar="RUN|SWEEP",
        help="run directory, sweep directory, or several run directories",
    )
    parser.add_argument(
        "--metric",
        help="sweep: metric to compare (default: test_accuracy, or else test_loss)",
    )
    parser.add_argument(
        "--out",
        type=option_types.path,
        help="folder to write (default: RUN, SWEEP/report, or for several runs: report)",
    )
    parser.add_argument(
        "--pictures",
        action=argparse.BooleanOptionalAction,
        help="pictures that need the network and its data (default: for a run, but not for the "
        "trials of a sweep)",
    )
    parser.add_argument(
        "--pages",
        action=argparse.BooleanOptionalAction,
        help="sweep: a page for every trial (default: with --pictures, and up to "
        f"{MOST_PAGES} trials)",
    )
    parser.add_argument(
        "--examples",
        type=int,
        default=EXAMPLES,
        metavar="N",
        help="images of the evaluation split that are predicted, spread evenly (default: "
        "%(default)s)",
    )
    options = parser.parse_args(arguments)
    option_types.require_ranges(options, examples=(1, LARGEST))
    return options


def _is_sweep(folder: Path) -> bool:
    return (folder / "sweep.json").is_file()


def _out(options: argparse.Namespace, default: Path) -> Path:
    out = options.out or default
    paths.require_folder(out, "--out")
    return out


def _written(file: Path) -> None:
    print(f"written to {printable(str(file))} ({file.stat().st_size / 1e6:.1f} MB)")


# ---- Runs


def _run(options: argparse.Namespace) -> int:
    (folder,) = options.folders
    _refuse_sweep_options(options)
    out = _out(options, folder)
    from cv_jax.report import page, run_page

    pictures = options.pictures is not False
    if pictures:
        from cv_jax.devices import compile_cache

        compile_cache.use("auto")  # not the folder of the config: a run may come from elsewhere
    file = out / page.FILE
    run = run_page.write(folder, file, pictures=pictures, examples=options.examples)
    print(printable(f"{run.path}: {run.state}"))
    _written(file)
    return _code([f"damaged: {run.path}: {line}" for line in run.damage])


def _runs(options: argparse.Namespace) -> int:
    _refuse_sweep_options(options)
    if options.pictures:
        raise InputError("--pictures does not apply to several runs")
    out = _out(options, Path("report"))
    from cv_jax.report import page, sweep_page

    runs = sweep_page.write_runs(options.folders, out / page.FILE)
    for run in runs:
        print(printable(f"{run.path}: {run.state}"))
    _written(out / page.FILE)
    return _code([f"damaged: {run.path}: {line}" for run in runs for line in run.damage])


def _refuse_sweep_options(options: argparse.Namespace) -> None:
    for name in ("metric", "pages"):
        if getattr(options, name) is not None:
            raise InputError(f"--{name} is for a sweep")


def _code(damage: list[str]) -> int:
    """Return the exit code of a written report.

    Raises:
      RunError: something is damaged or not counted.
    """
    if damage:
        more = f" (and {len(damage) - 1} more)" if damage[1:] else ""
        raise RunError(f"{damage[0]}{more}; the report names all")
    return 0


# ---- A sweep


def _sweep(options: argparse.Namespace) -> int:
    (folder,) = options.folders
    out = _out(options, folder / "report")

    from cv_jax.report import figures, page, results, settings, sweep_page, tables

    page.require_replaceable(out / page.FILE)
    sweep, found = results.read(folder)
    groups = settings.group(found)
    metric = _metric(options.metric, found)
    facts = _facts(sweep, found)
    text = "\n\n".join(_sections(facts, sweep, found, groups, metric, tables))
    print(text)

    out.mkdir(parents=True, exist_ok=True)
    (out / "report.md").write_text(text + "\n")
    settings = tables.settings_csv(groups)
    (out / "settings.csv").write_text(settings, errors="backslashreplace")
    trials = tables.trials_csv(sweep, found, folder)
    (out / "trials.csv").write_text(trials, errors="backslashreplace")
    figure = figures.figure(groups)
    if figure is not None:
        figure.savefig(out / "figure.png")
    pages = bool(options.pictures) or len(found) <= MOST_PAGES
    if pages if options.pages is None else options.pages:
        sweep_page.write_trials(folder, found, bool(options.pictures))
    elif options.pages is None:
        print(f"\nno pages of {len(found):,} trials; --pages writes them")
    title = _title(sweep, found)
    sweep_page.write_sweep(folder, out / page.FILE, title, facts, found, groups, metric)
    print(f"\nwritten to {printable(str(out))}")
    left_out = [r for r in found if r.state.startswith(results.NOT_COUNTED)]
    return _code([f"{r.name}: {r.state}" for r in left_out])


def _metric(asked: str | None, found) -> str | None:
    """Return the metric of the comparisons; `None` if no trial is done."""
    known = list(dict.fromkeys(name for result in found for name in result.metrics))
    if asked is None or not known:
        return next((name for name in ("test_accuracy", "test_loss") if name in known), None)
    if asked not in known:
        raise InputError(f"--metric={asked} was not measured; allowed: {', '.join(known)}")
    return asked


def _title(sweep, found) -> str:
    done = sum(bool(result.metrics) for result in found)
    return f"{Path(sweep.config).stem}: {done} of {len(found)} trials done"


def _facts(sweep, found) -> list[tuple[str, str]]:
    """Return names and values of what the trials share."""
    from cv_jax.report.run_page import in_words
    from cv_jax.run import identity

    done = [result for result in found if result.metrics]
    seeds = sorted({result.seed for result in done})
    first = sweep.points[0]
    swept = {"seed", *found[0].values}
    shared = {key: value for key, value in first.arguments.items() if key not in swept}
    facts = [("config", sweep.reference(first._replace(arguments=shared)))]
    shared = {name: text for name, text in sweep.texts(first).items() if name not in swept}
    if shared:
        flags = " ".join(f"--config.{name}={text}" for name, text in shared.items())
        facts.append(("common flags", flags))
    facts.append(("seeds", ", ".join(map(str, seeds))))
    for name in ("commit", "devices", "versions"):
        values = {in_words(result.start.get(name)) or "None" for result in done}
        facts.append((name, "; ".join(sorted(values))))
    mixed = identity.mixed_conditions([result.starts for result in done])
    if mixed:
        facts.append(("conditions that differ between trials and may change bits", mixed))
    return facts


def _sections(facts, sweep, found, groups, metric, tables):
    """Yield the sections of the report, in Markdown."""
    yield f"# {_title(sweep, found)}"
    code = ("config", "common flags")
    yield "\n".join(f"- {k}: `{v}`" if k in code else f"- {k}: {v}" for k, v in facts)
    yield tables.of_settings(groups).markdown()
    compared = metric and tables.of_comparisons(groups, metric)
    if compared:
        yield "Differences between settings with the same seeds (paired t test):"
        yield compared.markdown()
    unfinished = tables.of_unfinished(found)
    if unfinished:
        yield "\n".join(["Unfinished trials:", *(f"- {line}" for line in unfinished)])
