"""Names that strangers chose: control characters, line breaks that forge lines, no valid UTF-8.

Classes and files have such names. Every command works on them, and prints them as text.
"""

import json
import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import launch  # noqa: E402
from cv_jax import __main__ as program  # noqa: E402

FORGED = "a\nerror: accuracy 100 %\x1b[31m\x07\u202e$x$|"
BYTES = os.fsdecode(b"latin-\xe9-\xff")
FLAGS = ["--config.total_steps=2", "--config.batch_size=8", "--config.mesh.devices=1"]
FLAGS += ["--config.image_size=8", "--config.data.eval_split=val", "--config.eval.batch_size=8"]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder with hostile names at every level, its own name too."""
    root = tmp_path_factory.mktemp("names") / f"photos {FORGED} {BYTES}"
    draw = np.random.default_rng(0)
    for split in ("train", "val"):
        for name in (FORGED, BYTES):
            folder = root / split / name
            folder.mkdir(parents=True)
            for i, file in enumerate((FORGED, BYTES, "c", "d")):
                pixels = draw.integers(0, 256, (9, 9 + i, 3), np.uint8)
                Image.fromarray(pixels).save(folder / f"{file}.png", "PNG")
    return root


def printed(capsys):
    """What the command printed, which has no control characters and no forged line."""
    captured = capsys.readouterr()
    lines = (captured.out + captured.err).split("\n")
    assert all(line.isprintable() for line in lines), captured
    assert not [line for line in lines if line.startswith("error: accuracy")]
    return captured.out, captured.err


def called(capsys, *words):
    assert program.main([str(word) for word in words]) == 0, capsys.readouterr()
    return printed(capsys)


@pytest.fixture(scope="module")
def run(photos):
    workdir = photos.parent / f"run {FORGED}"
    config = ["--config", f"{ROOT}/configs/linear.py", "--workdir", str(workdir)]
    return [*config, f"--config.data.name=folder:{photos}", *FLAGS], workdir


@pytest.fixture
def trained(run, capsys):
    flags, workdir = run
    assert launch.run(flags) == 0, capsys.readouterr()
    printed(capsys)
    return workdir


def test_a_run_trains_and_continues_and_is_evaluated(run, trained, capsys):
    flags, workdir = run
    assert json.loads((workdir / "classes.json").read_text())["classes"] == [FORGED, BYTES]
    assert launch.run(flags) == 0
    assert "finished already" in printed(capsys)[0]
    assert launch.run([*flags, "--evaluate"]) == 0
    out, _ = printed(capsys)
    assert r"a\nerror: accuracy 100 %\x1b[31m\x07\u202e$x$|" in out
    assert r"latin-\udce9-\udcff" in out


def test_predict_features_and_look(trained, photos, tmp_path, capsys):
    folder = photos / "val"
    out, _ = called(capsys, "predict", trained, folder)
    assert len(out.splitlines()) == 8
    assert out.count(r"\udce9-\udcff.png: ") == 2
    out, _ = called(capsys, "predict", trained, folder, "--json")
    rows = [json.loads(line) for line in out.splitlines()]
    assert {name["name"] for row in rows for name in row["predictions"]} == {FORGED, BYTES}
    assert all(os.path.isfile(row["image"]) for row in rows)
    for kind in ("npz", "parquet"):
        arguments = ("--feature", "pre_logits", "--out", tmp_path / f"f.{kind}")
        called(capsys, "features", trained, folder, *arguments)
    called(
        capsys,
        "features",
        trained,
        "--split",
        "val",
        "--feature",
        "pre_logits",
        "--out",
        tmp_path / "split.npz",
    )
    with np.load(tmp_path / "f.npz") as file:
        assert len(file["name"]) == 8
    called(capsys, "look", trained, "errors", "--out", tmp_path / "look")
    called(capsys, "templates", trained, "--out", tmp_path / "templates.png")
    called(capsys, "verify", trained)


def test_weights_keep_the_names(trained, photos, tmp_path, capsys):
    called(capsys, "convert", trained, tmp_path / "w.safetensors")
    file = photos / "val" / BYTES / f"{BYTES}.png"
    out, _ = called(capsys, "predict", tmp_path / "w.safetensors", file, "--json")
    assert {row["name"] for row in json.loads(out)["predictions"]} == {FORGED, BYTES}


def test_records_keep_the_names(run, photos, tmp_path, capsys):
    called(capsys, "prepare", f"folder:{photos}", "--to", tmp_path / "r", "--workers", 1)
    called(capsys, "verify", tmp_path / "r")
    flags, _ = run
    workdir = tmp_path / "run"
    more = [f"--config.data.name=records:{tmp_path / 'r'}", "--workdir", str(workdir)]
    assert launch.run([*flags, *more]) == 0, capsys.readouterr()
    printed(capsys)
    assert json.loads((workdir / "classes.json").read_text())["classes"] == [FORGED, BYTES]


def test_broken_images_are_named_as_text(photos, tmp_path, capsys):
    folder = tmp_path / "broken"
    folder.mkdir()
    for name in (FORGED, BYTES):
        (folder / f"{name}.png").write_bytes(b"\x89PNG")
    assert program.main(["predict", str(photos.parent / f"run {FORGED}"), str(folder)]) == 2
    _, err = printed(capsys)
    assert len(re.findall(r"^skipped: ", err, re.MULTILINE)) == 2
