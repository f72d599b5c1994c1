"""The page of a sweep, and of several runs over each other."""

import html
import json
import os
import re
import time
from urllib.parse import unquote

import page_reader
import pytest
import sweeps

from cv_jax.__main__ import main
from cv_jax.commands import report

KINDS = ("a", '<img src=x onerror="alert(1)">', "pad_crop(4)|flip")


def finish(folder, points):
    for i, point in enumerate(points):
        sweeps.finish(folder, point, 0.5 + i / 100)


@pytest.fixture
def folder(tmp_path, capsys):
    points = [{"kind": kind, "seed": seed} for kind in KINDS for seed in (0, 1)]
    points = sweeps.write(tmp_path / "a sweep, #1", points)
    finish(tmp_path / "a sweep, #1", points[:-1])
    return tmp_path / "a sweep, #1"


def links(page, file):
    """The files that the page links to."""
    found = [attrs["href"] for tag, attrs in page.tags if tag == "a" and "href" in attrs]
    return [(file.parent / unquote(link)).resolve() for link in found if not link.startswith("#")]


def test_every_trial_has_its_page(folder):
    assert main(["report", str(folder)]) == 0
    file = folder / "report" / "report.html"
    page = page_reader.read(file)
    found = links(page, file)
    assert len(found) == 5
    for target in found:
        assert target.parent.parent == folder.resolve()
        page_reader.read(target)
    for kind in KINDS:
        assert kind in page.words
    assert "5 of 6 trials done" in page.words
    assert "not started" in page.words
    assert not [attrs for _, attrs in page.tags if attrs.get("src") == "x"]


def test_a_large_sweep_has_pages_of_trials_on_request(folder, monkeypatch, capsys):
    monkeypatch.setattr(report, "MOST_PAGES", 5)
    pages = folder / "report"
    assert main(["report", str(folder)]) == 0
    assert "no pages of 6 trials; --pages writes them" in capsys.readouterr().out
    assert not [*folder.glob("*/report.html")][1:]
    assert not links(page_reader.read(pages / "report.html"), pages / "report.html")
    assert main(["report", str(folder), "--pages"]) == 0
    assert len([*folder.glob("kind=*/report.html")]) == 5
    monkeypatch.setattr(report, "MOST_PAGES", 6)
    assert main(["report", str(folder), "--no-pages", "--out", str(folder.parent / "out")]) == 0
    assert "no pages" not in capsys.readouterr().out


def test_the_page_has_the_numbers_of_the_tables(folder, capsys):
    assert main(["report", str(folder)]) == 0
    printed = capsys.readouterr().out
    table = [line for line in printed.split("\n\n")[2].splitlines() if line.startswith("|")]
    page = page_reader.read(folder / "report" / "report.html")
    for line in (table[0], *table[2:]):
        cells = [cell.strip().replace(r"\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        assert all(cell in page.words for cell in cells)
    assert "95 % interval" in page.words


def test_a_page_is_written_again_only_after_its_run_has_changed(folder):
    trial = next(path for path in sorted(folder.iterdir()) if (path / "run.json").is_file())
    assert main(["report", str(folder)]) == 0
    before = (trial / "report.html").stat().st_mtime_ns
    assert main(["report", str(folder)]) == 0
    assert (trial / "report.html").stat().st_mtime_ns == before
    later = time.time() + 10
    os.utime(trial / "metrics.jsonl", (later, later))
    assert main(["report", str(folder)]) == 0
    assert (trial / "report.html").stat().st_mtime_ns != before


def test_a_damaged_trial_is_named_and_left_out(folder, capsys):
    trial = next(path for path in sorted(folder.iterdir()) if (path / "run.json").is_file())
    (trial / "summary.json").write_text("{")
    assert main(["report", str(folder)]) == 1
    said = capsys.readouterr()
    assert "4 of 6 trials done" in said.out
    assert f"{trial.name}: not counted: a file is damaged: " in said.err
    page = page_reader.read(folder / "report" / "report.html")
    assert "Some trials are not counted: they are left out of all means." in page.words
    assert "This run is damaged" in page_reader.read(trial / "report.html").words


def test_trials_that_failed(tmp_path):
    """Each has a page, and its reason in the table."""
    points = sweeps.write(tmp_path, [{"kind": kind} for kind in "abc"])
    finish(tmp_path, points[:1])
    for point, code in zip(points[1:], (3, -9), strict=True):
        sweeps.end(tmp_path, point, code, 7)
    assert main(["report", str(tmp_path)]) == 0
    page = page_reader.read(tmp_path / "report" / "report.html")
    assert "1 of 3 trials done" in page.words
    assert "the loss became infinite or not a number, step 7" in page.words
    assert "killed by signal 9 at step 7" in page.words
    for point in points[1:]:
        own = page_reader.read(tmp_path / point.name / "report.html")
        assert "This run is not finished, step 7" in own.words


def test_a_sweep_that_has_not_begun(tmp_path):
    sweeps.write(tmp_path, [{"kind": "a"}, {"kind": "b"}])
    assert main(["report", str(tmp_path)]) == 0
    page = page_reader.read(tmp_path / "report" / "report.html")
    assert "0 of 2 trials done" in page.words


NO_FORMULAS = (r"$\foo$", "_a_b", "x^{2", "$a$ $b$")


def labels_of(file):
    source = page_reader.read(file).source
    return {html.unescape(x).strip() for x in re.findall(r"<text[^>]*>([^<]*)<", source)}


@pytest.mark.parametrize("others", [(), NO_FORMULAS], ids=["bars", "groups of bars"])
def test_values_are_no_formulas(tmp_path, monkeypatch, others):
    monkeypatch.setattr("cv_jax.report.sweep_page.write_trials", lambda *arguments: None)
    points = [{"kind": x, **({"other": y} if others else {})}
              for x in NO_FORMULAS for y in others or ("",)]  # fmt: skip
    finish(tmp_path, sweeps.write(tmp_path, points))
    assert main(["report", str(tmp_path)]) == 0
    labels = labels_of(tmp_path / "report" / "report.html")
    assert {*NO_FORMULAS, *(f"other={x}" for x in others)} <= labels


def test_names_of_metrics_are_no_formulas(tmp_path):
    (point,) = sweeps.write(tmp_path, [{"kind": "a"}])
    finish(tmp_path, [point])
    run = tmp_path / point.name
    with (run / "metrics.jsonl").open("a") as file:
        line = {"step": 20, "split": NO_FORMULAS[1], NO_FORMULAS[0]: 1.0}
        file.write(json.dumps(line) + "\n")
    for words in ([], [str(run)]):
        out = ["--no-pictures"] * (not words) + ["--out", str(tmp_path / "out")]
        assert main(["report", str(run), *words, *out]) == 0
        assert {*NO_FORMULAS[: 2 - len(words)]} <= labels_of(tmp_path / "out" / "report.html")


@pytest.mark.slow
def test_the_size_of_thirty_trials(tmp_path):
    points = [{"optim.learning_rate": r, "seed": s} for r in (1.0, 2.0, 3.0) for s in range(10)]
    finish(tmp_path, sweeps.write(tmp_path, points))
    assert main(["report", str(tmp_path)]) == 0
    file = tmp_path / "report" / "report.html"
    assert file.stat().st_size < 5e6
    assert len(links(page_reader.read(file), file)) == 30


# ---- Several runs


def test_runs_over_each_other(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runs = sorted(path for path in folder.iterdir() if (path / "run.json").is_file())[:3]
    for i, run in enumerate(runs):
        file = run / "metrics.jsonl"
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        file.write_text("".join(json.dumps({**x, "learning_rate": i}) + "\n" for x in lines))
    assert main(["report", *map(str, runs)]) == 0
    page = page_reader.read(tmp_path / "report" / "report.html")
    for run in runs:
        assert run.name in page.words
    # Seeds differ in sweeps.finish; the model does not.
    assert re.search(r"<td class=\"left\">seed</td>", page.source)
    assert "model.name" not in page.words
    (chart,) = re.findall(r"<figcaption>accuracy</figcaption>(<svg.*?</svg>)", page.source, re.S)[
        :1
    ]
    drawn = set(re.findall(r"stroke: (var\(--series-\d\))", chart))
    assert drawn == {f"var(--series-{i})" for i in range(3)}
    names = html.unescape(re.search(r'aria-label="([^"]*)"', chart)[1])
    assert runs[0].name in names


def test_equal_names_are_told_apart_by_their_paths(folder, tmp_path, monkeypatch):
    other = tmp_path / "other"
    points = sweeps.write(other, [{"kind": "a", "seed": 0}])
    finish(other, points)
    name = points[0].name
    out = ["--out", str(tmp_path / "out")]
    assert main(["report", str(folder / name), str(other / name), *out]) == 0
    words = page_reader.read(tmp_path / "out" / "report.html").words
    assert str(folder / name) in words
    assert str(other / name) in words


def test_sweeps_are_not_compared_with_runs(folder, capsys):
    assert main(["report", str(folder), str(folder)]) == 2
    assert "is a sweep; several folders must be runs" in capsys.readouterr().err
