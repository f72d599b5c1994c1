"""Compatibility with run directories of an older version, before the package had subpackages.

`old_runs/NAME/run` is a run killed after its checkpoint at step 4 of 12; `config.py` is its config,
`finished` holds the metric lines and the summary of the same run without interruption.
"""

import json
import shutil
from pathlib import Path

import jaxlib
import numpy as np
import pytest
from PIL import Image

from cv_jax import config as configs
from cv_jax.__main__ import main
from cv_jax.run import json_files
from cv_jax.training import experiment
from cv_jax.training.evaluate import evaluate
from cv_jax.training.loop import train

pytestmark = pytest.mark.usefixtures("full_optimisation")

OLD_RUNS = Path(__file__).parent / "old_runs"


def parts_of(name, data_dir, **overrides):
    overrides = {"mesh.devices": "1", "data.dir": str(data_dir), **overrides}
    return experiment.build(configs.load(str(OLD_RUNS / name / "config.py"), overrides))


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def assert_close(got, expected):
    assert [list(line) for line in got] == [list(line) for line in expected]
    for ours, theirs in zip(got, expected, strict=True):
        assert ours["split"] == theirs["split"]
        names = [name for name in ours if name not in ("split", "accuracy", "correct", "ece")]
        values = [[line[name] for name in names] for line in (ours, theirs)]
        np.testing.assert_allclose(*values, rtol=1e-3, atol=1e-4, err_msg=str(ours))


def summary_of(folder):
    """The summary without the digest of the config, which was computed over all fields."""
    summary = json.loads((folder / "summary.json").read_text())
    return {name: value for name, value in summary.items() if name not in ("digest", "sha256")}


@pytest.mark.parametrize("name", ["mlp", "vit"])
def test_an_old_run_continues_and_every_command_reads_it(name, tmp_path, data_dir, capsys, caplog):
    run, expected = tmp_path / "run", OLD_RUNS / name / "finished"
    shutil.copytree(OLD_RUNS / name / "run", run)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert main(["verify", str(run)]) == 0
    image = tmp_path / "grey.png"
    Image.fromarray(np.full((8, 8), 99, np.uint8)).save(image)
    capsys.readouterr()
    assert main(["predict", str(run), str(image), "--json"]) == 0
    assert "grey.png" in capsys.readouterr().out
    assert main(["convert", str(run), str(tmp_path / "weights.safetensors")]) == 0
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before

    assert train(parts_of(name, data_dir), run, "") == 0
    assert_close(lines(run), lines(expected))
    # Rounding differs between versions of jaxlib and between CPUs. On a CPU that repeats the old
    # run bit for bit, so does its continuation. Mixup, which mlp has, is rounded in another way
    # since then.
    fresh, old = tmp_path / "fresh", lines(expected)
    assert train(parts_of(name, data_dir), fresh, "") == 0
    assert_close(lines(fresh), old)
    recorded = json.loads((run / "run.json").read_text())[0]["versions"]["jaxlib"]
    if name != "mlp" and jaxlib.__version__ == recorded and lines(fresh) == old:
        assert lines(run) == old
        assert summary_of(run) == summary_of(expected)
    # A summary of the older version is not taken for a damaged one: its fields, its digest of the
    # config, and the results of these lines, which are rounded as on this CPU.
    theirs = json.loads((expected / "summary.json").read_text())
    ours = {**theirs, **summary_of(run), "digest": theirs["digest"]}
    ours = {name: ours[name] for name in theirs if name != "sha256"}
    json_files.write_record(run / "summary.json", ours)
    written = (run / "summary.json").read_bytes()
    capsys.readouterr()
    assert train(parts_of(name, data_dir), run, "") == 0
    assert "finished already" in capsys.readouterr().out
    assert "damaged" not in caplog.text
    assert (run / "summary.json").read_bytes() == written

    assert evaluate(parts_of(name, data_dir), run) == 0
    child = parts_of(name, data_dir, init_from=str(run), total_steps="3")
    assert train(child, tmp_path / "child", "") == 0
