"""The page of the course: `course.html`, and `course.md` with its pictures beside it.

Both have the same content. For each chapter: claim, verdict and a picture first; then the checks,
the tables, the commands, and more pictures. A chapter without trials has its commands.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cv_jax.course import evidence, run, tables
from cv_jax.course.chapter import Chapter, Picture
from cv_jax.course.evidence import Found
from cv_jax.course.verdict import OPEN, Verdict
from cv_jax.errors import InputError, one_line, printable, shell_line
from cv_jax.inspect.look import DoesNotApply
from cv_jax.interop.disk import replacing
from cv_jax.progress import counted
from cv_jax.report import figures, page, svg
from cv_jax.report import tables as sweep_tables
from cv_jax.report.run_page import in_words
from cv_jax.report.settings import group

HTML, MARKDOWN = "course.html", "course.md"
PICTURES, RECORDS = "pictures", "records"  # folders beside the page
NOT_RUN = "not run yet"
METHOD = (
    "Each claim is divided into checks. A check holds if the whole 95 % confidence interval over "
    "the seeds is beyond its threshold. It is contradicted if the whole interval is on the other "
    "side, and else undecided: the seeds differ too much to tell. Statistics and thresholds stand "
    "in the code before the runs; the verdict is computed."
)


class Told(NamedTuple):
    """A chapter with what its runs say.

    Attributes:
      number: its place in the course, from 1.
      chapter: the chapter.
      state: the verdict in two words, or NOT_RUN.
      why: one to three sentences.
      findings: those of the chapter on this dataset; "" without any.
      verdict: the checks; `None` if no trial is finished.
      found: its studies.
      commands: for each study the command that runs or continues it.
      pictures: its pictures, drawn inside `svg.theme`.
      notes: what could not be measured or drawn, and trials that are not counted.
    """

    number: int
    chapter: Chapter
    state: str
    why: str
    findings: str
    verdict: Verdict | None
    found: list[Found]
    commands: list[str]
    pictures: list[Picture]
    notes: list[str]


def write(out: Path, dataset: str, chapters: Sequence[tuple[int, Chapter]], seeds: int | None):
    """Write the page of these chapters, and the records of their trials; return the chapters.

    Args:
      out: folder of the page; the studies are in `out/runs`.
      dataset: name of the dataset.
      chapters: the chapters with their numbers.
      seeds: number of seeds; default: that of each study.

    Raises:
      InputError: the page would replace something else.
    """
    page.require_replaceable(out / HTML)
    out.mkdir(parents=True, exist_ok=True)
    with svg.theme():
        told = [
            tell(number, chapter, out, dataset, seeds)
            for number, chapter in counted(chapters, "reading chapters")
        ]
        _write_pictures(out, told)
        text = _html(dataset, told)
    page.write(out / HTML, text)
    with replacing(out / MARKDOWN) as scratch:
        scratch.write_text(markdown(dataset, told), encoding="utf-8")
    _write_records(out, told)
    return told


def tell(number: int, chapter: Chapter, out: Path, dataset: str, seeds: int | None) -> Told:
    """Return a chapter with what its runs say so far; nothing is run."""
    found = evidence.read(chapter, out / "runs")
    runs = evidence.runs(found)
    commands = [
        shell_line(
            ["python", "launch.py"]
            + run.flags(study, dataset, out / "runs", seeds or study.seeds, [])
        )
        for study in chapter.studies
        if dataset in study.arguments
    ]
    notes = [note for one in found for note in (*one.not_counted, *one.notes)]
    findings, pictures = chapter.findings.get(dataset, ""), []
    if not runs.trials:
        why = "No trial is finished." if commands else f"It is not defined on {dataset}."
        return Told(number, chapter, NOT_RUN, why, findings, None, found, commands, [], notes)
    verdict = chapter.verdict(runs.trials)
    for draw in chapter.pictures:
        name = draw.__name__.removeprefix("draw_").replace("_", " ")
        try:
            pictures.append(draw(runs))
        except (DoesNotApply, LookupError, InputError) as error:
            notes.append(f"picture of {name}: {one_line(error, 200)}")
        except Exception as error:  # a picture must not cost the page
            notes.append(f"picture of {name}: {type(error).__name__}: {one_line(error, 200)}")
    said = verdict.state, verdict.why, findings, verdict
    return Told(number, chapter, *said, found, commands, pictures, notes)


def facts(told: Told) -> list[tuple[str, str]]:
    """Return names and values of the conditions of a chapter's runs."""
    done = [result for one in told.found for result in one.done]
    names = {"data": sorted({str(r.config.get("data.name", "")) for r in done})}
    names["seeds"] = [str(seed) for seed in sorted({r.seed for r in done})]
    for name in ("commit", "devices", "versions"):
        names[name] = sorted({in_words(r.start.get(name)) or "unknown" for r in done})
    return [(name, printable("; ".join(values))) for name, values in names.items() if values]


def _html(dataset: str, told: list[Told]) -> str:
    return page.render(
        "course.html",
        f"The line of image classifiers, tested on {dataset}",
        method=METHOD,
        overview=[(_title(t), f"chapter-{t.chapter.name}", t.chapter.claim, t.state) for t in told],
        dataset=dataset,
        chapters=[_values(t) for t in told],
    )


def _title(told: Told) -> str:
    return f"{told.number}. {told.chapter.title}"


def _values(told: Told) -> dict[str, Any]:
    """Return a chapter as variables of the template."""
    drawn = [(p.title, p.text, svg.to_svg(p.figure, f"{p.title}: {p.text}")) for p in told.pictures]
    studies = []
    for one in told.found:
        result = figures.figure(group(one.results)) if one.done else None
        label = f"Results of {one.study.name}"
        studies.append(
            {
                "name": one.study.name,
                "table": tables.of_study(told.chapter, one),
                "figure": None if result is None else svg.to_svg(result, label),
            }
        )
    return {
        "anchor": f"chapter-{told.chapter.name}",
        "title": _title(told),
        "claim": told.chapter.claim,
        "background": told.chapter.background,
        "findings": told.findings,
        "state": told.state,
        "kind": told.state.replace(" ", "-"),
        "why": told.why,
        "checks": tables.of_checks(told.verdict) if told.verdict else None,
        "pictures": drawn,
        "studies": studies,
        "commands": told.commands,
        "facts": facts(told),
        "notes": told.notes,
    }


def markdown(dataset: str, told: list[Told]) -> str:
    """Return the page in Markdown; pictures are files below `PICTURES`."""
    overview = sweep_tables.aligned(
        ["chapter", "claim", "verdict"], [[_title(t), t.chapter.claim, t.state] for t in told], 3
    )
    parts = [f"# The line of image classifiers, tested on {dataset}", METHOD, overview]
    for one in told:
        parts += _chapter_markdown(dataset, one)
    return "\n\n".join(parts) + "\n"


def _chapter_markdown(dataset: str, told: Told) -> list[str]:
    parts = [f"## {_title(told)}", f"**Claim.** {told.chapter.claim}"]
    parts.append(f"**Verdict on {dataset}: {told.state}.** {printable(told.why)}")
    pictures = [
        f"![{p.title}]({PICTURES}/{_file(told, i)})\n\n*{p.title}. {printable(p.text)}*"
        for i, p in enumerate(told.pictures)
    ]
    parts += pictures[:1]
    parts.append(told.chapter.background)
    if told.findings:
        parts.append(f"**In the recorded runs.** {told.findings}")
    if told.verdict:
        parts.append(tables.of_checks(told.verdict).markdown())
    for one in told.found:
        table = tables.of_study(told.chapter, one)
        if table:
            parts += [
                f"Trials of `{one.study.name}`: means over seeds with 95 % intervals.",
                table.markdown(),
            ]
    parts += pictures[1:]
    if told.commands:
        parts.append("```\n" + "\n".join(told.commands) + "\n```")
    parts.append("\n".join(f"- {name}: {value}" for name, value in facts(told)))
    parts += [f"Left out: {printable(note)}." for note in told.notes]
    return [part for part in parts if part]


def _file(told: Told, i: int) -> str:
    return f"{told.chapter.name}-{i + 1}.png"


def _write_pictures(out: Path, told: list[Told]) -> None:
    folder = out / PICTURES
    folder.mkdir(exist_ok=True)
    for one in told:
        for i, picture in enumerate(one.pictures):
            picture.figure.savefig(folder / _file(one, i), facecolor="white", dpi=100)


def _write_records(out: Path, told: list[Told]) -> None:
    """Write every trial with its metrics, commit and command: one CSV file for each study."""
    folder = out / RECORDS
    folder.mkdir(exist_ok=True)
    for one in (one for t in told for one in t.found if one.sweep is not None):
        text = sweep_tables.trials_csv(one.sweep, one.results, one.folder)
        (folder / f"{one.study.name}.csv").write_text(text, errors="backslashreplace")


def unfinished(told: list[Told]) -> list[str]:
    """Return the names of the chapters that have no verdict yet."""
    return [t.chapter.name for t in told if t.state in (NOT_RUN, OPEN)]
