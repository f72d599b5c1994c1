"""The recorded course: its verdicts follow from its trials, and the documents repeat them."""

import csv
import re
from pathlib import Path

import pytest

from cv_jax.course.chapter import Trial
from cv_jax.course.chapters import CHAPTERS

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "benchmarks" / "results" / "course" / "digits"
PAGE = (FOLDER / "course.md").read_text()


def parsed(text):
    """A swept value as Python wrote it."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return {"True": True, "False": False}.get(text, text)


def trials(chapter):
    found = []
    for study in chapter.studies:
        with (FOLDER / "records" / f"{study.name}.csv").open(newline="") as file:
            for row in csv.DictReader(file):
                names = list(row)
                keys = names[1 : names.index("seed")]
                rest = names[names.index("state") + 1 : names.index("commit")]
                assert row["state"] == "done"
                metrics = {name: float(row[name]) for name in rest if row[name]}
                values = {key: parsed(row[key]) for key in keys}
                found.append(Trial(study.name, values, int(row["seed"]), metrics))
    return found


def shown():
    """Title of a chapter → its verdict on the page."""
    rows = re.findall(r"^\| (\d+\. [^|]+?) +\| [^|]+ \| ([a-z ]+?) +\|$", PAGE, re.MULTILINE)
    return dict(rows)


def test_the_page_has_all_chapters():
    assert list(shown()) == [f"{i}. {c.title}" for i, c in enumerate(CHAPTERS, 1)]


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda chapter: chapter.name)
def test_the_verdict_follows_from_the_trials(chapter):
    verdict = chapter.verdict(trials(chapter))
    number = CHAPTERS.index(chapter) + 1
    section = PAGE.partition(f"## {number}. {chapter.title}\n")[2].partition("\n## ")[0]
    assert f"**Claim.** {chapter.claim}" in section
    assert f"**Verdict on digits: {verdict.state}.** {verdict.why}" in section
    assert chapter.findings["digits"] in section
    assert shown()[f"{number}. {chapter.title}"] == verdict.state


@pytest.mark.parametrize("page", ["README.md", "docs/experiments.md"])
def test_documents_repeat_the_verdicts(page):
    text = (ROOT / page).read_text()
    for chapter in CHAPTERS:
        checks = chapter.verdict(trials(chapter)).checks
        held = sum(check.result == "holds" for check in checks)
        row = f"| {held} of {len(checks)} |"
        lines = [line for line in text.splitlines() if line.startswith("|") and row in line]
        title = f"{CHAPTERS.index(chapter) + 1}. {chapter.title}"
        assert any(title in line for line in lines), title


def test_pictures_and_records_are_there():
    for name in re.findall(r"\]\((pictures/[^)]+)\)", PAGE):
        assert (FOLDER / name).is_file()
    assert "/tmp" not in PAGE
