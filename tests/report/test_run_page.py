"""The page of one run: a real run with hostile names, and runs that are damaged or unfinished."""

import base64
import hashlib
import json
import re
import shutil
import sys
import time
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import page_reader
import pytest
from PIL import Image
from slow import slow_except

from cv_jax import config as configs
from cv_jax.__main__ import main
from cv_jax.augment.batch import augment_batch
from cv_jax.run import class_names, json_files, lock, workdir
from cv_jax.training import experiment

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import launch  # noqa: E402

CLASS = "<script>alert(1)</script>"
FILE = '"><img src=x onerror=alert(1)>.png'
AUGMENT = "pad_crop(1)|flip"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run with `--config.report=true` on eight images for each of two classes."""
    folder = tmp_path_factory.mktemp("page")
    draw = np.random.default_rng(0)
    for split in ("train", "val"):
        for name in ("<b>bold", "plain"):
            (folder / "photos" / split / name).mkdir(parents=True)
            for i in range(8):
                pixels = draw.integers(0, 256, (8, 8, 3), np.uint8)
                file = FILE if i == 0 else f"{i}.png"
                Image.fromarray(pixels).save(folder / "photos" / split / name / file)
    path = folder / "run"
    words = ["--config", f"{ROOT}/configs/linear.py:folder:{folder / 'photos'}"]
    words += [
        "--config.eval_preprocess=",
        "--config.image_size=8",
        "--config.total_steps=4",
        "--config.log.every_steps=1",
    ]
    words += ["--config.batch_size=8", "--config.eval.every_steps=2", f"--config.augment={AUGMENT}"]
    words += ["--config.mesh.devices=1", "--config.report=true", "--workdir", str(path)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["launch.py", *words])  # recorded as the command
        assert launch.main(words) == 0
    assert (path / "report.html").is_file()
    # A dataset may name a class as no folder can be named.
    names = (CLASS, "plain")
    json_files.write_record(path / "classes.json", {"classes": names})
    starts = [{**s, "classes": class_names.digest(names)} for s in workdir.read_starts(path)]
    json_files.write_json(path / "run.json", [json_files.sealed(start) for start in starts])
    return path


@pytest.fixture(scope="module")
def page(run):
    assert main(["report", str(run)]) == 0
    return page_reader.read(run / "report.html")


@pytest.fixture
def copy(run, tmp_path):
    """A copy of the run without a page, which the test may damage."""
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "report.html").unlink()
    return tmp_path / "run"


def report(path, *words, code=0):
    """Write the page of a run from its records, or with other words, and return it."""
    assert main(["report", str(path), *(words or ["--no-pictures"])]) == code
    return page_reader.read(path / "report.html")


def test_names_are_data(page):
    """A class and a file with markup in their names show as text."""
    assert page.words.count(CLASS) >= 4  # matrix, accuracy by class, batch, errors
    assert f"<b>bold/{FILE}" in page.words
    assert not [tag for tag, _ in page.tags if tag == "b"]
    assert not [attrs for tag, attrs in page.tags if attrs.get("src") == "x"]
    (script,) = page.scripts
    assert "alert" not in script


def test_only_its_own_script_may_run(page):
    (policy,) = [
        attrs["content"]
        for tag, attrs in page.tags
        if attrs.get("http-equiv", "").startswith("Con")
    ]
    digest = base64.b64encode(hashlib.sha256(page.scripts[0].encode()).digest()).decode()
    assert policy.startswith("default-src 'none'")
    assert f"script-src 'sha256-{digest}'" in policy


def test_what_was_run(page, run):
    start = json.loads((run / "run.json").read_text())[0]
    for text in (start["commit"], start["python"], f"jax {start['versions']['jax']}"):
        assert text in page.words
    assert "--config.augment=pad_crop(1)|flip" in page.words
    # Difference from the recipe: the fields of the flags, with the values of both.
    recipe = configs.flatten(configs.load(f"{ROOT}/configs/linear.py:folder:x"))
    row = f"batch_size{recipe['batch_size']}8examples per training step"
    assert row in page.words.replace("\n", "")


def test_axes_and_units(page):
    labels = re.findall(r"<text[^>]*>([^<]*)</text>", page.source)
    for label in ("steps", "epochs", "loss", "accuracy, %", "images per second"):
        assert label in labels, label
    # The clock begins with this process, which may have run other tests before.
    assert {"time, seconds", "time, minutes", "time, hours"} & {*labels}


def test_numbers_are_those_of_the_run(page, run):
    """The evaluation of the run itself counted the same right images."""
    last = json_files.read_lines(run / "metrics.jsonl")[-1]
    assert last["split"] == "test"
    said = f"{last['correct']} of 16 images are right ({last['accuracy']:.2%})"
    assert said in page.words
    matrix = re.search(r'<table class="matrix">.*?</table>', page.source, re.DOTALL)[0]
    cells = [int(x or 0) for x in re.findall(r"<td style[^>]*>(\d*)</td>", matrix)]
    counts = np.array(cells).reshape(2, 2)
    assert counts.sum(axis=1).tolist() == [8, 8]
    assert np.trace(counts) == last["correct"]


def test_the_batch_is_that_of_the_step(page, run):
    """The first pictures have the pixels that the training loop loads and augments."""
    config = configs.restore(json_files.read_record(run / "config.json"))
    parts = experiment.build(config)
    batch = next(parts.train_batches(0))
    made = augment_batch(config, parts.augmentation, 2, jnp.int32(0), batch)["image"]
    scale, shift = np.array(config.data.std), np.array(config.data.mean)
    expected = np.round((np.asarray(made) * scale + shift) * 255)
    start = page.source.index('id="batch"')
    section = page_reader.Page(page.source[start : page.source.index("<section", start)])
    shown = [np.asarray(image) for image in section.images()][1::2]
    assert len(shown) == 8
    np.testing.assert_allclose(np.stack(shown).astype(float), expected, atol=1)


def test_size_and_time(run, tmp_path):
    begun = time.process_time()
    assert main(["report", str(run), "--out", str(tmp_path)]) == 0
    assert time.process_time() - begun < 10
    assert (tmp_path / "report.html").stat().st_size < 3e6


def test_without_pictures_nothing_is_evaluated(copy, monkeypatch):
    monkeypatch.setattr("cv_jax.interop.trained.open_trained", None)
    page = report(copy)
    assert "This page was written from the records alone" in page.words
    assert not [tag for tag, _ in page.tags if tag == "img"]


def test_an_empty_run(tmp_path):
    (tmp_path / "new").mkdir()
    assert "This run has not begun." in report(tmp_path / "new").words
    (tmp_path / "new" / "lock").touch()
    assert "This run has not begun." in report(tmp_path / "new", "--pictures").words
    # The page does not keep the run from beginning.
    config = configs.load(f"{ROOT}/configs/linear.py")
    workdir.check(tmp_path / "new", config, {})


def test_an_unfinished_run(copy):
    (copy / "summary.json").unlink()
    lines = (copy / "metrics.jsonl").read_text().splitlines(True)
    (copy / "metrics.jsonl").write_text("".join(lines[:3]) + '{"step": 3, "spl')
    page = report(copy)
    assert "This run is not finished, step 2 of 4." in page.words
    assert "The same command continues it." in page.words


def test_a_running_run(copy):
    (copy / "summary.json").unlink()
    with lock.claimed(copy):
        page = report(copy)
    assert "This run is running, step 4 of 4." in page.words
    assert "The same command continues it." not in page.words


@pytest.mark.slow
def test_a_running_run_has_pictures(copy):
    (copy / "summary.json").unlink()
    with lock.claimed(copy):
        page = report(copy, "--pictures")
    assert "This run is running, step 4 of 4." in page.words
    assert "Most confident errors" in page.words


def test_a_run_of_one_step(copy):
    (copy / "summary.json").unlink()
    for name in ("metrics.jsonl", "timing.jsonl"):
        (copy / name).write_text((copy / name).read_text().splitlines(True)[0])
    page = report(copy)
    assert "This run is not finished, step 1 of 4." in page.words
    assert "training steps, evaluations, checkpoints" in page.words


def test_metrics_that_are_not_numbers(copy):
    lines = (copy / "metrics.jsonl").read_text()
    (copy / "metrics.jsonl").write_text(re.sub(r"(?<=: )[\d.e+-]+\.[\d.e+-]+", "NaN", lines))
    page = report(copy)
    assert "<dt>test accuracy</dt>" not in page.source
    assert "There are no metric lines with finite numbers yet." in page.words


def test_a_damaged_checkpoint(copy):
    for file in (copy / "checkpoints").rglob("*"):
        if file.is_file() and "state" in file.parts:
            file.write_bytes(b"damaged")
    words = report(copy, "--pictures").words
    assert words.count("is sound.") == 2
    assert "Training batch" in words


def test_without_a_checkpoint(copy):
    shutil.rmtree(copy / "checkpoints")
    page = report(copy, "--pictures")
    assert page.words.count(f"Left out: {copy}: there is no checkpoint yet.") == 2
    assert "Most confident errors" not in page.words


def test_without_its_data(copy):
    values = json_files.read_record(copy / "config.json")
    values["data.name"] = "folder:/nowhere"
    json_files.write_record(copy / "config.json", values)
    page = report(copy, "--pictures")
    assert page.words.count("/nowhere does not exist; give a folder.") == 3


DAMAGE = {
    "cut": lambda content: content[: len(content) // 2],
    "changed": lambda content: content.replace(b"1", b"2"),
    "binary": lambda content: bytes(range(256)) * 4,
    "empty": lambda content: b"",
    "another type": lambda content: b"[[[[1]]]]\n",
    "deep": lambda content: b"[" * 100_000 + b"\n",
}


RECORDS = ("config.json", "run.json", "classes.json", "summary.json")
DAMAGED = [f"{name}, {kind}" for name in RECORDS for kind in DAMAGE]


@pytest.mark.parametrize(
    "case",
    slow_except(DAMAGED, "config.json, cut", "run.json, changed", "summary.json, another type"),
)
def test_a_damaged_record_is_named(copy, case, capsys):
    name, kind = case.split(", ")
    (copy / name).write_bytes(DAMAGE[kind]((copy / name).read_bytes()))
    page = report(copy, code=1)
    assert "This run is damaged" in page.words
    assert f"{name}: " in page.words
    assert f"error: damaged: {copy}: {name}: " in capsys.readouterr().err


LINES = ("{", "[]", "null", '{"step": "x", "split": 1}', '{"step": NaN, "split": "test"}', "\0\xff")


@pytest.mark.parametrize("name", ["metrics.jsonl", "timing.jsonl"])
def test_damaged_lines_are_named(copy, name):
    with (copy / name).open("a") as file:
        file.writelines(f"{line}\n" for line in LINES)
    page = report(copy, code=1)
    assert f"{name}: {len(LINES)} lines cannot be read" in page.words
    assert "loss" in page.words


def test_odd_numbers_in_lines(copy):
    with (copy / "metrics.jsonl").open("a") as file:
        for value in ("NaN", "Infinity", "true", '"text"', "null", "[1]", "1e308"):
            line = f'"step": 5, "split": "test", "accuracy": {value}, "loss": {value}'
            file.write(f"{{{line}}}\n")
    report(copy)


def test_everything_is_damaged(copy):
    for file in copy.glob("*.json*"):
        file.write_bytes(b"\xff")
    assert "This run is damaged" in report(copy, "--pictures", code=1).words


def test_a_file_of_the_user_is_not_replaced(copy, capsys):
    (copy / "report.html").write_text("mine")
    assert main(["report", str(copy)]) == 2
    assert "exists and is not a report; rename it, or give another --out" in capsys.readouterr().err
    assert (copy / "report.html").read_text() == "mine"


def test_only_config_files_of_the_checkout_are_executed(copy, tmp_path):
    """A run directory may come from elsewhere and name any file."""
    (tmp_path / "own.py").write_text("raise SystemExit('executed')\n")
    starts = json.loads((copy / "run.json").read_text())
    start = json_files.unsealed(starts[0])
    start["command"] = ["launch.py", "--config", str(tmp_path / "own.py"), "--config.seed=3"]
    json_files.write_json(copy / "run.json", [json_files.sealed(start)])
    page = report(copy)
    assert "Left out: its config file is not in this checkout." in page.words
    assert "--config.seed=3" in page.words


def test_mistakes(run, tmp_path, capsys):
    (tmp_path / "notes.txt").touch()
    cases = {
        (str(tmp_path / "notes.txt"),): "notes.txt is not a folder; give a run directory",
        (str(tmp_path / "none"),): "is not a folder; give a run directory or a sweep directory",
        (str(tmp_path),): "holds no sweep and no run",
        (str(run), "--metric", "x"): "--metric is for a sweep",
        (str(run), "--no-pages"): "--pages is for a sweep",
        (str(run), "--examples", "0"): "--examples=0 must be at least 1",
        (str(run), str(run), "--pictures"): "--pictures does not apply to several runs",
    }
    for words, message in cases.items():
        assert main(["report", *words]) == 2
        assert message in capsys.readouterr().err


def test_a_failure_at_the_end_changes_nothing(run, monkeypatch, capsys):
    from cv_jax.report import run_page

    monkeypatch.setattr(run_page.page, "render", None)
    run_page.write_at_end(run, pictures=False)
    assert "no report was written; python -m cv_jax report tries again" in capsys.readouterr().err


def test_equal_probabilities_and_nan_are_counted_as_in_the_evaluation():
    """The first of equal classes is predicted; nothing is right with NaN."""
    from cv_jax.report import trained_net
    from cv_jax.tasks.classification import class_predictions

    scores = np.array([[0, 0, 0], [1, 0, 1], [0, 2, 2], [np.nan, 0, 0]], np.float32)
    labels = np.array([1, 0, 2, 1])
    expected = class_predictions(configs.load(f"{ROOT}/configs/linear.py"), scores, labels)
    shares = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    found = trained_net.scores(trained_net.Predictions(np.arange(4), labels, shares, 4), 3)
    assert found["correct"] == int((np.asarray(expected["rank"]) < 1).sum()) == 1
