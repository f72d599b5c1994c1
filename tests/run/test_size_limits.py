"""Records of terabytes, which take no place on the disk: named and not read, and runs go on."""

import os
import shutil
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import launch  # noqa: E402
from cv_jax import __main__ as program  # noqa: E402
from cv_jax.errors import RunError  # noqa: E402
from cv_jax.report import results, run_files  # noqa: E402
from cv_jax.run import json_files  # noqa: E402
from cv_jax.sweep.points import Sweep, make_point  # noqa: E402

HUGE = 2**42
RECORD = f"it has {HUGE:,} bytes, more than the limit of {2**26:,}"
LINES = f"it has {HUGE:,} bytes, more than the limit of {2**28:,}"
FILES = ["config.json", "run.json", "classes.json", "summary.json", "metrics.jsonl", "timing.jsonl"]


@pytest.fixture(autouse=True)
def soon():
    """Reading a file of this size would take an hour."""
    started = time.monotonic()
    yield
    assert time.monotonic() - started < 30


def train(workdir, data_dir, *more):
    flags = ["--config", f"{ROOT}/configs/linear.py", "--workdir", str(workdir)]
    small = {"total_steps": 2, "batch_size": 16, "data.dir": data_dir, "mesh.devices": 1}
    return launch.run([*flags, *(f"--config.{k}={v}" for k, v in small.items()), *more])


@pytest.fixture(scope="module")
def finished(tmp_path_factory, data_dir):
    workdir = tmp_path_factory.mktemp("finished") / "run"
    assert train(workdir, data_dir) == 0
    return workdir


def test_a_limit_is_not_exceeded_by_a_byte(tmp_path, monkeypatch):
    file = tmp_path / "a.json"
    json_files.write_record(file, {"a": 1})
    for limit, text in (("RECORD_BYTES", file.read_text()), ("LINES_BYTES", '{"a": 1}\n')):
        file.write_text(text)
        monkeypatch.setattr(json_files, limit, len(text))
        read = json_files.read_record if limit == "RECORD_BYTES" else json_files.read_lines
        assert read(file) in ({"a": 1}, [{"a": 1}])
        monkeypatch.setattr(json_files, limit, len(text) - 1)
        with pytest.raises(RunError, match=f"more than the limit of {len(text) - 1}$"):
            read(file)


@pytest.mark.parametrize("name", FILES)
def test_readers_name_the_file_and_a_start_writes_it_again(
    finished, tmp_path, data_dir, capsys, name
):
    workdir = tmp_path / "run"
    shutil.copytree(finished, workdir)
    os.truncate(workdir / name, HUGE)
    limit = LINES if name.endswith("jsonl") else RECORD
    assert f"{name}: {limit}" in run_files.read(workdir).damage
    if name != "timing.jsonl":
        assert program.main(["verify", str(workdir)]) == 1
        assert f"{workdir / name}: " in capsys.readouterr().out
        assert train(workdir, data_dir) == 0
        assert (workdir / name).stat().st_size < 2**20
    for file in ("config.json", "classes.json", "summary.json", "metrics.jsonl"):
        assert (workdir / file).read_text() == (finished / file).read_text()


@pytest.mark.parametrize("name", [name for name in FILES if name != "classes.json"])
def test_a_trial_with_such_a_file_is_not_counted(finished, tmp_path, name):
    point = make_point({"seed": 0})
    sweep = Sweep(f"{ROOT}/configs/linear.py", "", {}, (point,))
    json_files.write_json(tmp_path / "sweep.json", {**sweep._asdict(), "points": [point._asdict()]})
    shutil.copytree(finished, tmp_path / point.name)
    os.truncate(tmp_path / point.name / name, HUGE)
    _, (result,) = results.read(tmp_path)
    assert "a file is damaged: " in result.state
    assert "more than the limit of" in result.state
    assert result.metrics == {}
