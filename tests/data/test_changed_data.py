"""Runs whose data change while they train, or between their starts."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from changing_photos import COUNT, batches_of, replace, write

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

import launch  # noqa: E402
from cv_jax import __main__ as program  # noqa: E402
from cv_jax.data import fingerprint, sources  # noqa: E402
from cv_jax.errors import RunError  # noqa: E402
from cv_jax.run import checkpoint  # noqa: E402
from cv_jax.run.record import Record  # noqa: E402

FLAGS = ["--config.total_steps=20", "--config.batch_size=8", "--config.eval.batch_size=8"]
FLAGS += ["--config.mesh.devices=1", "--config.image_size=6", "--config.checkpoint.every_steps=5"]
FLAGS += ["--config.eval.every_steps=10", "--config.data.prefetch=1", "--config.augment=flip"]


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """Images which count as large data."""
    monkeypatch.setattr(fingerprint, "MAX_BYTES", 0)
    return write(tmp_path / "photos")


@pytest.fixture
def run(tmp_path):
    (tmp_path / "run").mkdir()
    return tmp_path / "run"


def train(capsys, photos, workdir, *more, cache="none"):
    config = ["--config", f"{ROOT}/configs/linear.py", "--workdir", str(workdir)]
    data = [f"--config.data.name=folder:{photos}", "--config.data.eval_split=val"]
    code = launch.run([*config, *data, *FLAGS, f"--config.data.cache={cache}", *more])
    lines = capsys.readouterr().err.splitlines()
    return code, [line for line in lines if line.startswith("error: ")]


def after_an_epoch(monkeypatch, act):
    """Call `act` when the run in this process evaluates after its first epoch."""
    evaluated = Record.evaluated

    def changing(self, step, *rest):
        evaluated(self, step, *rest)
        if step == 10:
            act()

    monkeypatch.setattr(Record, "evaluated", changing)


def last_example(photos):
    """A file of the last batch of the second epoch, which the checksum of a start does not read."""
    source = sources.open_source(f"folder:{photos}", "train", None)
    read = np.linspace(0, COUNT - 1, 32).astype(int)
    return Path(source.records.place(np.setdiff1d(batches_of(source).indices(19), read)[0]))


@pytest.mark.slow
def test_a_run_ends_at_an_image_that_was_replaced_between_epochs(photos, run, capsys, monkeypatch):
    file = last_example(photos)
    with monkeypatch.context() as patch:
        after_an_epoch(patch, lambda: replace(file))
        code, lines = train(capsys, photos, run)
    assert (code, len(lines)) == (2, 1)
    assert f"{file}: the example or its label has changed" in lines[0]
    assert 10 in checkpoint.finished(run / "checkpoints")
    assert train(capsys, photos, run) == (2, lines)
    assert verified(run, capsys) == (1, lines[0].removeprefix("error: "))
    replace(file)
    assert train(capsys, photos, run) == (0, [])
    text = "; 80 of 80 examples were read by the run, and are unchanged"
    assert verified(run, capsys) == (
        0,
        f"names and sizes of the training; without a recorded hash (data.hash=full){text}",
    )


def verified(run, capsys):
    """Exit code of `verify`, and what it says on the training data."""
    code = program.main(["verify", str(run)])
    lines = capsys.readouterr().out.splitlines()
    (line,) = [line for line in lines if ", data.train_split: " in line]
    return code, line.partition(", data.train_split: ")[2]


@pytest.mark.slow
@pytest.mark.parametrize("cache", ["none", "memory"])
def test_a_restart_compares_and_the_bits_are_those_of_a_run_without(
    photos, run, tmp_path, capsys, monkeypatch, cache
):
    def stop():
        raise RunError("stopped")

    with monkeypatch.context() as patch:
        after_an_epoch(patch, stop)
        assert train(capsys, photos, run, cache=cache)[0] == 1
    for file in ("train", "val"):
        replace(photos / file / "a/01.bmp")
        code, lines = train(capsys, photos, run, cache=cache)
        assert (code, len(lines)) == (2, 1)
        assert f"{photos}/{file}/a/01.bmp: the example or its label has changed" in lines[0]
        replace(photos / file / "a/01.bmp")
    assert train(capsys, photos, run, cache=cache) == (0, [])
    assert {file.name for file in (run / "digests").iterdir()} == {"train-0.bin", "eval-0.bin"}

    monkeypatch.setattr(fingerprint, "MAX_BYTES", 2**30)
    assert train(capsys, photos, tmp_path / "without", cache=cache) == (0, [])
    assert not (tmp_path / "without/digests").exists()
    assert (run / "metrics.jsonl").read_text() == (tmp_path / "without/metrics.jsonl").read_text()
    got, expected = (
        checkpoint.read_newest(path / "checkpoints", lambda name: True)[0]
        for path in (run, tmp_path / "without")
    )
    assert got.keys() == expected.keys()
    assert all(got[name].tobytes() == expected[name].tobytes() for name in expected)


def test_a_file_in_the_place_of_the_folder_is_refused(photos, run, capsys):
    assert train(capsys, photos, run, "--config.total_steps=1")[0] == 0
    shutil.rmtree(run / "digests")
    (run / "digests").write_text("")
    code, (line,) = train(capsys, photos, run, "--config.total_steps=1")
    assert code == 2
    assert line.endswith(f"{run}/digests is a file, not a folder; move it away")
    assert json.loads((run / "run.json").read_text())
