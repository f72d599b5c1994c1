"""Every command on paths that it does not expect: a right result, or one line and exit code 2 or 1.

A directory that is empty, without permission or read-only, a file in place of a directory, devices,
pipes, sockets, broken links, names with control characters, too long or not UTF-8. All cases run in
one process, in which permissions bind root too. Its terminal has 40 columns.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent

SHORT = ["--config.total_steps=1", "--config.batch_size=8", "--config.eval.batch_size=32"]
FEW = ["--config.data.train_split=train[:32]", "--config.data.eval_split=test[:32]"]
LINEAR = ["launch", "--config", "configs/linear.py", *SHORT, *FEW]
NEW = ["--workdir", "NEW"]
MLP = ["launch", "--config", "configs/mlp.py"]

# Name → words; GOOD is a folder with a run, its weights, a sweep, and photos in train and val.
COMMANDS = {
    "config": ["launch", "--config", "{}", "--dry_run"],
    "config inside": ["launch", "--config", "{}/x.py", "--dry_run"],
    "train": [*LINEAR, "--workdir", "{}"],
    "evaluate": [*LINEAR, "--workdir", "{}", "--evaluate"],
    "dry run": [*LINEAR, "--workdir", "{}", "--dry_run"],
    "data.dir": [*LINEAR, *NEW, "--config.data.dir={}"],
    "data.name": [*LINEAR, *NEW, "--config.data.name={}"],
    "folder": ["launch", "--config", "configs/linear.py:folder:{}", *SHORT, *NEW],
    "records": ["launch", "--config", "configs/linear.py:records:{}", *SHORT, *NEW],
    "init_from": [*LINEAR, *NEW, "--config.init_from={}"],
    "teacher": [*LINEAR, *NEW, "--config.distill.teacher={}"],
    "compile_cache": [*LINEAR, *NEW, "--config.compile_cache={}"],
    "sweep": [*MLP, "--sweep=width", "--sweep_dir", "{}", "--dry_run"],
    "vmap": [*MLP, *SHORT, *FEW, "--sweep=rate", "--sweep_executor=vmap", "--sweep_dir", "{}"],
    "search": [*MLP, "--search", "--trials=1", "--sweep_dir", "{}", "--dry_run"],
    "search config": ["launch", "--config", "{}", "--search", "--sweep_dir", "NEW"],
    "models": ["models", "{}"],
    "report": ["report", "{}"],
    "predict": ["predict", "GOOD/run", "{}"],
    "predict model": ["predict", "{}", "GOOD/photos/val/a/0.png"],
    "receptive-field": ["receptive-field", "{}"],
    "templates": ["templates", "{}"],
    "templates out": ["templates", "GOOD/run", "--out", "{}"],
    "templates force": ["templates", "GOOD/run", "--out", "{}", "--force"],
    "look": ["look", "{}", "GOOD/photos/val/a/0.png", "--out", "NEW"],
    "look out": ["look", "GOOD/run", "GOOD/photos/val/a/0.png", "--what", "filters", "--out", "{}"],
    "features": ["features", "{}", "--list"],
    "features image": ["features", "GOOD/run", "{}", "--feature", "output", "--out", "NEW.npz"],
    "convert": ["convert", "{}", "NEW.safetensors"],
    "convert dest": ["convert", "GOOD/run", "{}"],
    "convert force": ["convert", "GOOD/run", "{}", "--force"],
    "convert inside": ["convert", "GOOD/run", "{}/sub/w.safetensors"],
    "prepare": ["prepare", "{}"],
    "prepare folder": ["prepare", "folder:{}", "--to", "NEW", "--workers", "1"],
    "prepare records": ["prepare", "records:{}", "--to", "NEW", "--workers", "1"],
    "prepare to": ["prepare", "folder:GOOD/photos", "--to", "{}", "--workers", "1"],
    "prepare data-dir": ["prepare", "digits", "--data-dir", "{}"],
    "augment": ["augment", "{}", "--out", "NEW.png"],
    "augment out": ["augment", "flip", "--rows", "1", "--out", "{}"],
    "augment force": ["augment", "flip", "--rows", "1", "--out", "{}", "--force"],
    "augment dir": ["augment", "flip", "--rows", "1", "--out", "NEW.png", "--dir", "{}"],
    "augment data": ["augment", "flip", "--out", "NEW.png", "--data", "folder:{}"],
    "verify": ["verify", "{}"],
    "course out": ["course", "--page_only", "--chapters", "linear", "--out", "{}"],
}
TARGETS = ["missing", "empty", "locked", "read-only", "file", "unreadable", "inside locked"]
TARGETS += ["inside a file", "pipe", "socket", "loop", "dangling", "long", "control missing"]
TARGETS += ["control file", "control empty", "bytes", "/dev/null", "/dev/full", "/dev/zero"]
TARGETS += ["empty text"]
FILES = {
    "png": ["predict", "features image"],
    "py": ["config", "search config"],
    "safetensors": ["convert", "predict model", "init_from", "teacher", "convert force"],
    "npz": ["convert", "predict model", "init_from"],
    "pth": ["convert", "init_from"],
}
CASES = [(command, target) for command in COMMANDS for target in TARGETS]
CASES += [
    (command, f"{name}.{suffix}")
    for suffix, commands in FILES.items()
    for command in commands
    for name in ("null", "full", "zero", "pipe", "text", "unreadable", "empty")
]
# A case that once waited without end, ended in a traceback, or printed control characters.
QUICK = [
    *[("verify", target) for target in ("locked", "control empty", "/dev/zero")],
    *[("report", target) for target in ("empty", "file", "long")],
    *[("predict", target) for target in ("pipe.png", "zero.png", "control file")],
    *[("convert", target) for target in ("pipe.safetensors", "unreadable.safetensors", "zero.npz")],
    *[("convert inside", target) for target in ("control missing", "read-only", "/dev/null")],
    *[("templates", target) for target in ("file", "inside locked", "loop")],
    *[("prepare data-dir", target) for target in ("bytes", "control missing")],
    *[("prepare folder", target) for target in ("locked", "socket")],
    *[("config", target) for target in ("empty", "pipe.py", "unreadable.py")],
    *[("train", target) for target in ("bytes", "dangling", "inside a file", "locked")],
    *[("sweep", target) for target in ("locked", "pipe")],
    *[("data.name", target) for target in ("empty", "control file")],
]


@pytest.fixture(scope="module")
def good(tmp_path_factory, data_dir):
    """A folder with a run, and photos."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("good")
    sys.path.insert(0, str(ROOT))
    import launch

    flags = ["--config", f"{ROOT}/configs/linear.py", f"--config.data.dir={data_dir}"]
    flags += ["--config.total_steps=2", "--config.mesh.devices=1"]
    assert launch.main([*flags, "--workdir", str(folder / "run")]) == 0
    for split in ("train", "val"):
        for value, name in enumerate("ab"):
            (folder / "photos" / split / name).mkdir(parents=True)
            for i in range(8):
                image = Image.fromarray(np.full((8, 8), 99 * value + i, np.uint8))
                image.save(folder / "photos" / split / name / f"{i}.png")
    return folder


def results(folder, good, data_dir, cases):
    """Run the cases in one process; return `{case: (code, output, errors, seconds)}`."""
    words = [[[w.replace("GOOD", str(good)) for w in COMMANDS[c]], target] for c, target in cases]
    (folder / "cases.json").write_text(json.dumps(words))
    subprocess.run(
        [sys.executable, "tests/hostile.py", str(folder), str(folder / "cases.json")],
        cwd=ROOT,
        env={**os.environ, "XLA_FLAGS": "", "TFDS_DATA_DIR": str(data_dir)},
        check=True,
        timeout=1800,
    )
    return dict(zip(cases, json.loads((folder / "results.json").read_text()), strict=True))


def check(case, code, out, err, seconds):
    assert code in (0, 1, 2), (case, code)
    assert seconds < 60, case
    assert all(c.isprintable() or c == "\n" for c in out + err), (case, out, err)
    lines = err.splitlines()
    if code == 0 or (case[0] == "verify" and out):  # `verify` found damage
        return
    if case[0] == "predict" and lines[-1].endswith("images were skipped"):
        assert all(line.startswith("skipped: ") for line in lines[:-1]), (case, err)
        return
    assert len(lines) == 1, (case, err)
    assert lines[0].startswith("error: "), (case, err)
    assert "Errno" not in err, (case, err)


@pytest.fixture(scope="module")
def quick(tmp_path_factory, good, data_dir):
    return results(tmp_path_factory.mktemp("quick"), good, data_dir, QUICK)


@pytest.mark.parametrize("case", QUICK, ids=" ".join)
def test_a_right_result_or_one_line(quick, case):
    check(case, *quick[case])


@pytest.fixture(scope="module")
def every(tmp_path_factory, good, data_dir):
    return results(tmp_path_factory.mktemp("every"), good, data_dir, CASES)


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("case", CASES, ids=" ".join)
def test_every_command_on_every_path(every, case):
    check(case, *every[case])


def test_the_words_of_some_messages(quick):
    words = {
        ("predict", "pipe.png"): "pipe.png is a pipe; give files and folders",
        ("predict", "zero.png"): "zero.png is a device; give files and folders",
        ("convert", "pipe.safetensors"): "pipe.safetensors is a pipe; give a file",
        ("convert", "unreadable.safetensors"): "unreadable.safetensors: Permission denied",
        ("train", "bytes"): "is not valid UTF-8; rename it",
        ("train", "dangling"): "is a link to a missing file; give a folder",
        ("train", "inside a file"): "/file is a file; give a folder",
        ("train", "locked"): "locked/run.json: Permission denied",
        ("report", "long"): "File name too long",
        ("verify", "control empty"): r"empty a\nb\x1b[31m\x07\u202ec holds neither",
    }
    for case, text in words.items():
        code, _, err, _ = quick[case]
        assert code == 2, case
        assert text in err, (case, err)
