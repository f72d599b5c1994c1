"""`launch.py --sweep`: input errors, the list of points, and a small sweep of real trials."""

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import launch  # noqa: E402
from cv_jax.errors import InputError  # noqa: E402
from cv_jax.run import json_files, lock  # noqa: E402

CONFIG = (
    (ROOT / "configs" / "linear.py").read_text()
    + """

def sweep_rate():
    for rate in (1e-3, 1e-2):
        yield {"optim.learning_rate": rate}


def sweep_odd():
    yield {"batch_size": 32}
    yield {"batch_size": 33}


def sweep_typo():
    yield {"optim.learning_rat": 1}


def sweep_type():
    yield {"batch_size": "many"}


def sweep_argument():
    yield {"depth": 3}


def sweep_compiler():
    yield {"xla_flags": "--xla_no_such_flag=1"}


def sweep_weights():
    yield {"init_from": "nowhere"}


def sweep_same():
    yield {"optim.learning_rate": "1e-3"}
    yield {"optim.learning_rate": 0.001}


def sweep_pair():
    yield {"image_size": "16x32"}
    yield {"image_size": (16, 32)}


def sweep_flag():
    yield {"ema.warmup": "TRUE"}
    yield {"ema.warmup": True}


def sweep_stated():
    yield {}
    yield {"optim.momentum": 0.9}


def sweep_size():
    for size in (16, 32):
        yield {"image_size": size}
"""
)


@pytest.fixture
def call(tmp_path, data_dir):
    """`call("--sweep=rate", …)` runs the command in this process and returns its exit code."""
    (tmp_path / "small.py").write_text(CONFIG)

    def run(*arguments, folder="sweep"):
        flags = ["--config", str(tmp_path / "small.py"), f"--config.data.dir={data_dir}"]
        flags += ["--config.total_steps=3", "--config.eval.batch_size=360"]
        place = ["--sweep_dir", str(tmp_path / folder)] if folder else []
        return launch.main([*flags, *place, *arguments])

    return run


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sweep"], "choose with --sweep=NAME"),
        (["--sweep=depth"], "has no sweep 'depth'"),
        (["--sweep=odd"], "point batch_size=33: config.batch_size=33 does not divide over 8"),
        (["--sweep=typo"], "point optim.learning_rat=1: .*did you mean config.optim.learning_rate"),
        (["--sweep=type"], "point batch_size=many: config.batch_size=many: 'many' is not an int"),
        (["--sweep=argument"], "point depth=3: .*config argument 'depth=3' is not known"),
        (["--sweep=compiler"], "point xla_flags=.*xla_no_such_flag"),
        (["--sweep=same"], "rate=0.001: the point optim.learning_rate=1e-3 has the same values"),
        (["--sweep=pair"], "image_size=16x32: the point image_size=16x32-.* has the same values"),
        (["--sweep=flag"], "warmup=true: the point ema.warmup=TRUE has the same values"),
        (["--sweep=stated"], "momentum=0.9: the point default has the same values"),
        (["--sweep=rate", "--seeds=9999999999"], "must be at least 1 and at most 10000"),
        (["--sweep=weights"], "point init_from=nowhere: .*nowhere"),
        (["--sweep=rate", "--config.batch_sise=8"], "did you mean config.batch_size"),
        (["--sweep=rate", "--config.optim.learning_rate=1"], "the sweep sets optim.learning_rate"),
        (["--sweep=rate", "--slots=3000"], "a trial needs one"),
        (["--sweep=rate", "--slots=-1"], "at least 1"),
        (["--sweep=rate", "--seeds=0"], "at least 1"),
        (["--sweep=rate", "--evaluate"], "--evaluate is for one run"),
        (["--sweep=rate", "--workdir=x"], "--workdir is for one run"),
        (["--seeds=2"], "--seeds needs --sweep"),
        ([], "--sweep_dir needs --search or --sweep"),
        (["--search", "--seeds=2"], "--seeds needs --sweep"),
        (["--sweep=rate", "--trials=2"], "--trials needs --search"),
        (["--sweep=rate", "--search"], "do not go together"),
        (["--search"], "defines no search"),
    ],
)
def test_an_input_error_is_raised_before_any_write(call, tmp_path, arguments, message):
    environment = dict(os.environ)
    with pytest.raises(InputError, match=message) as caught:
        call(*arguments)
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["small.py"]
    assert dict(os.environ) == environment


def test_the_list_has_the_sizes_and_steps_of_each_point(call, tmp_path, capsys):
    path = tmp_path / "sweep" / "image_size=32"
    path.mkdir(parents=True)
    (tmp_path / "sweep" / "sweep.json").write_text("{")
    with pytest.raises(InputError, match="sweep.json"):
        call("--sweep=size", "--dry_run")
    (tmp_path / "sweep" / "sweep.json").unlink()
    path.rmdir()
    path.parent.rmdir()
    assert call("--sweep=size", "--dry_run") == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert rows[0] == ["image_size", "parameters", "mult-adds/image", "steps", "done"]
    for row, side in zip(rows[1:3], (16, 32), strict=True):
        adds = side * side * 10
        assert row == [f"{side}", f"{adds + 10:,}", f"{adds:,}", "3", "0"]
    assert [path.name for path in tmp_path.iterdir()] == ["small.py"]


@pytest.mark.slow
def test_real_trials_train_once_and_are_equal_to_the_plain_command(
    call, tmp_path, capsys, data_dir
):
    folder = tmp_path / "sweep"
    assert call("--sweep=rate", "--slots=2") == 0
    assert "2 of 2 trials done" in capsys.readouterr().out
    sweep = json.loads((folder / "sweep.json").read_text())
    names = [point["name"] for point in sweep["points"]]
    assert names == ["optim.learning_rate=0.001", "optim.learning_rate=0.01"]
    summaries = [json.loads((folder / name / "summary.json").read_text()) for name in names]
    assert summaries[0]["test_loss"] != summaries[1]["test_loss"]
    assert all((folder / f"{name}.log").read_text().count("done in") == 1 for name in names)

    # The same sweep with another value of a run field has no trial left.
    capsys.readouterr()
    assert call("--sweep=rate", "--slots=2", "--config.log.every_steps=1") == 0
    assert capsys.readouterr().err.count("finished before") == 2
    for name in names:
        assert len(json.loads((folder / name / "run.json").read_text())) == 1
    assert len((folder / "trials.jsonl").read_text().splitlines()) == 2

    plain = tmp_path / "plain"
    assert call("--config.optim.learning_rate=0.01", f"--workdir={plain}", folder=None) == 0
    alone = json.loads((plain / "summary.json").read_text())
    for name in ("test_loss", "train_loss"):  # the number of threads differs
        np.testing.assert_allclose(summaries[1][name], alone[name], rtol=1e-5)
    assert summaries[1]["digest"] == alone["digest"]

    with pytest.raises(InputError, match="holds another sweep.*point .*=0.001 is missing"):
        call("--sweep=size")
    values = json_files.read_record(folder / names[0] / "config.json")
    json_files.write_record(folder / names[0] / "config.json", {**values, "seed": 5})
    with pytest.raises(InputError, match="point optim.learning_rate=0.001: .*are of two runs"):
        call("--sweep=rate")
    json_files.write_record(folder / names[0] / "config.json", values)
    with lock.claimed(folder), pytest.raises(InputError, match="--sweep_dir=.* is in use by"):
        call("--sweep=rate")
