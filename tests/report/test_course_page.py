"""The page of the course from records without training, and its command line."""

import re

import course_runs
import page_reader
import pytest

from cv_jax.__main__ import main
from cv_jax.course.chapters import CHAPTERS
from cv_jax.errors import ExitCode

NAMED = {chapter.name: chapter for chapter in CHAPTERS}


def convolution(values, seed):
    """LeNet-5 leads on pixels in order by 10 points, and on shuffled ones as well."""
    lead = 0.1 if values["net"] == "lenet5" else 0.0
    return 0.8 + lead + 0.001 * seed, 0.99


@pytest.fixture
def out(tmp_path):
    folder = tmp_path / "a course, #1"
    course_runs.write(folder, NAMED["convolution"].studies[0], convolution)
    vgg = NAMED["vgg"].studies[0]
    course_runs.write(folder, vgg, lambda v, seed: (0.9, 0.9) if seed == 0 else None)
    return folder


def write(out, *more):
    return main(["course", "--out", str(out), "--page_only", *more])


def test_the_page_has_every_chapter(out, capsys):
    assert write(out) == 0
    printed = capsys.readouterr().out
    assert "2. convolution: held only in part" in printed
    assert "5. vgg: open" in printed
    assert "6. degradation: not run yet" in printed
    page = page_reader.read(out / "course.html")
    text = (out / "course.md").read_text()
    for chapter in CHAPTERS:
        for words in (page.words, text):
            assert chapter.title in words
            assert chapter.claim in words
        for study in chapter.studies:
            assert f"configs/experiments/{study.file}" in page.words
            assert f"configs/experiments/{study.file}" in text


def test_claim_verdict_and_checks_agree_in_both_files(out):
    assert write(out, "--chapters", "convolution") == 0
    html = page_reader.read(out / "course.html").words
    text = (out / "course.md").read_text()
    for words in (html, text):
        assert "Verdict on digits: held only in part" in words
        # The seeds of both nets are equal, so the interval of the difference is one number.
        assert words.count("10.0, 10.0 to 10.0 points") >= 4
        assert "The runs contradict that" in words
        assert "90.2 (" in words
        assert "picture of filters: " in words  # there is no checkpoint
        assert "abc" in words  # the commit
    assert html.index("Verdict") < html.index("How it was tested")
    assert text.index("**Verdict") < text.index("| check")


def test_records_have_every_trial_with_its_command(out):
    assert write(out, "--chapters", "2,5") == 0
    names = sorted(file.name for file in (out / "records").iterdir())
    assert names == ["convolution.csv", "vgg_depth.csv"]
    rows = (out / "records" / "convolution.csv").read_text().splitlines()
    assert len(rows) == 1 + 9 * 5
    assert all("python launch.py --config" in row for row in rows[1:])


def test_a_damaged_trial_is_named_and_left_out(out):
    path = next((out / "runs" / "convolution").glob("net=lenet5*seed=0"))
    (path / "summary.json").write_text("{}")
    assert write(out, "--chapters", "convolution") == 0
    page = page_reader.read(out / "course.html")
    assert "not counted: a file is damaged" in page.words
    assert re.search(r"4/5", page.words)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--chapters", "convolutoin"], "did you mean convolution"),
        (["--chapters", "13"], "unknown chapter '13'"),
        (["cifar"], "allowed: digits, cifar10; did you mean cifar10"),
        (["--slots", "2", "--sweep_executor", "vmap"], "do not go together"),
        (["--slots", "0"], "--slots=0 must be at least 1"),
        (["--seed", "3"], "unknown argument --seed"),
        (["--slurm.partition=gpu"], "unknown argument --slurm.partition=gpu"),
        (["--dry_run", "--page_only"], "do not go together"),
    ],
)
def test_mistakes_are_one_line(tmp_path, capsys, arguments, message):
    assert main(["course", "--out", str(tmp_path / "out"), *arguments]) == ExitCode.MISTAKE
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_another_page_is_not_replaced(out, capsys):
    (out / "course.html").write_text("my notes")
    assert write(out) == ExitCode.MISTAKE
    assert "is not a report" in capsys.readouterr().err
    assert (out / "course.html").read_text() == "my notes"
