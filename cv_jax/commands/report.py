"""`python -m cv_jax report SWEEP_DIR`: reports the results of a sweep so far.

Prints a table of the settings (mean ± standard deviation over seeds), comparisons between settings
with the same seeds, and the unfinished trials. SWEEP_DIR/report gets the same text, settings.csv,
trials.csv and a figure selected by the swept keys.
"""

from pathlib import Path

from cv_jax import paths
from cv_jax.commands import option_types
from cv_jax.errors import InputError, Parser, printable


def main(arguments: list[str]) -> int:
    """Print and write the report; an earlier report is replaced.

    Raises:
      InputError: SWEEP_DIR holds no sweep, no trial has the metric, or --out is not a folder.
    """
    parser = Parser(prog="python -m cv_jax report", description=__doc__)
    parser.add_argument("folder", type=option_types.path, metavar="SWEEP_DIR")
    parser.add_argument(
        "--metric", help="metric to compare (default: test_accuracy, or else test_loss)"
    )
    parser.add_argument(
        "--out", type=option_types.path, help="folder to write (default: SWEEP_DIR/report)"
    )
    options = parser.parse_args(arguments)
    out = options.out or options.folder / "report"
    paths.require_folder(out, "--out")

    from cv_jax.report import figures, results, settings, tables

    sweep, found = results.read(options.folder)
    groups = settings.group(found)
    metric = _metric(options.metric, found)
    text = "\n\n".join(_sections(sweep, found, groups, metric, tables))
    print(text)

    out.mkdir(parents=True, exist_ok=True)
    (out / "report.md").write_text(text + "\n")
    (out / "settings.csv").write_text(tables.settings_csv(groups), errors="backslashreplace")
    trials = tables.trials_csv(sweep, found, options.folder)
    (out / "trials.csv").write_text(trials, errors="backslashreplace")
    figure = figures.figure(groups)
    if figure is not None:
        figure.savefig(out / "figure.png")
    print(f"\nwritten to {printable(str(out))}")
    return 0


def _metric(asked: str | None, found) -> str | None:
    """Return the metric of the comparisons; `None` if no trial is done."""
    known = list(dict.fromkeys(name for result in found for name in result.metrics))
    if asked is None or not known:
        return next((name for name in ("test_accuracy", "test_loss") if name in known), None)
    if asked not in known:
        raise InputError(f"--metric={asked} was not measured; allowed: {', '.join(known)}")
    return asked


def _sections(sweep, found, groups, metric, tables):
    """Yield the sections of the report, in Markdown."""
    done = [result for result in found if result.metrics]
    seeds = sorted({result.seed for result in done})
    yield f"# {Path(sweep.config).stem}: {len(done)} of {len(found)} trials done"
    first = sweep.points[0]
    swept = {"seed", *found[0].values}
    shared = {key: value for key, value in first.arguments.items() if key not in swept}
    facts = [f"- config: `{sweep.reference(first._replace(arguments=shared))}`"]
    shared = {name: text for name, text in sweep.texts(first).items() if name not in swept}
    if shared:
        flags = " ".join(f"--config.{name}={text}" for name, text in shared.items())
        facts.append(f"- common flags: `{flags}`")
    facts.append(f"- seeds: {', '.join(map(str, seeds))}")
    for name, key in (("commit", "commit"), ("devices", "devices"), ("versions", "versions")):
        values = {str(_short(result.start.get(key))) for result in done}
        facts.append(f"- {name}: {'; '.join(sorted(values))}")
    from cv_jax.run import identity

    mixed = identity.mixed_conditions([result.starts for result in done])
    if mixed:
        facts.append(f"- conditions that differ between trials and may change bits: {mixed}")
    yield "\n".join(facts)
    yield tables.of_settings(groups)
    compared = metric and tables.of_comparisons(groups, metric)
    if compared:
        yield "Differences between settings with the same seeds (paired t test):"
        yield compared
    unfinished = tables.of_unfinished(found)
    if unfinished:
        yield "\n".join(["Unfinished trials:", *(f"- {line}" for line in unfinished)])


def _short(value):
    """Format a value of run.json."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {version}" for name, version in value.items())
    if isinstance(value, list):
        kinds = dict.fromkeys(value)
        return ", ".join(f"{value.count(kind)} {kind}" for kind in kinds)
    return value
