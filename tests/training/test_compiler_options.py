"""A run keeps the compiler options that it was begun with, also if a new run would have others."""

import dataclasses
import json
import shutil

import jax
import jaxlib
import numpy as np
import pytest

from cv_jax.devices import compile_options
from cv_jax.run import json_files
from cv_jax.run import workdir as records
from cv_jax.run.checkpoint import Checkpoints
from cv_jax.training import experiment
from cv_jax.training.evaluate import evaluate
from cv_jax.training.loop import train

OVERRIDES = {
    "total_steps": 4,
    "total_epochs": "none",
    "batch_size": 32,
    "mesh.devices": 1,
    "schedule.warmup_epochs": "none",
    "checkpoint.every_steps": 2,
    "checkpoint.keep_last": 5,
}
# Whether they are those of a new run or not, the runs below must keep them.
OPTIONS = {"xla_cpu_enable_fast_min_max": True}


@pytest.fixture
def parts(load_config):
    return experiment.build(load_config("lenet5", OVERRIDES))


def starts(path):
    return records.read_starts(path)


def stopped_at_2(path, copy, forget=()):
    """A copy of a finished run as after a kill; entries of its start may be missing."""
    shutil.copytree(path, copy)
    (copy / "summary.json").unlink()
    shutil.rmtree(copy / "checkpoints" / "4")
    found = [{k: v for k, v in start.items() if k not in forget} for start in starts(copy)]
    json_files.write_json(copy / "run.json", [json_files.sealed(start) for start in found])


def result(path, parts):
    """The metric lines, and the bytes of all arrays of the last checkpoint."""
    state, _ = Checkpoints(path / "checkpoints").restore(parts.abstract_state)
    arrays = [np.asarray(x).tobytes() for x in jax.tree.leaves(jax.device_get(state))]
    return (path / "metrics.jsonl").read_text(), arrays


@pytest.mark.slow
def test_a_run_of_an_older_version_continues_without_options(
    load_config, tmp_path, full_optimisation, monkeypatch
):
    """Its start has no entry; a new run has the measured options in its record."""
    monkeypatch.setenv("PJRT_NPROC", "2")
    parts = experiment.build(load_config("lenet5", OVERRIDES))
    old = dataclasses.replace(parts, compiler_options={})
    assert train(old, tmp_path / "old", "") == 0
    stopped_at_2(tmp_path / "old", tmp_path / "again", forget=["compiler_options"])
    assert train(parts, tmp_path / "again", "") == 0
    assert "compiler_options" not in starts(tmp_path / "again")[0]
    assert starts(tmp_path / "again")[1]["compiler_options"] == {}
    assert result(tmp_path / "again", parts) == result(tmp_path / "old", parts)
    assert train(parts, tmp_path / "new", "") == 0
    assert starts(tmp_path / "new")[0]["compiler_options"] == compile_options.for_steps()
    if jaxlib.__version__ in compile_options.MEASURED:  # the comparison can fail
        assert result(tmp_path / "new", parts) != result(tmp_path / "old", parts)


@pytest.mark.slow
def test_a_run_keeps_its_options_for_training_and_evaluation(parts, tmp_path, capsys):
    begun = dataclasses.replace(parts, compiler_options=OPTIONS)
    assert train(begun, tmp_path / "run", "") == 0
    stopped_at_2(tmp_path / "run", tmp_path / "again")
    assert train(parts, tmp_path / "again", "") == 0
    assert [start["compiler_options"] for start in starts(tmp_path / "again")] == [OPTIONS] * 2
    assert evaluate(parts, tmp_path / "again") == 0
    found = json.loads((tmp_path / "again" / "evaluation.json").read_text())
    assert found["compiler_options"] == OPTIONS
    assert "conditions" not in capsys.readouterr().err


def test_another_version_of_the_compiler_has_its_own_options(parts, tmp_path, monkeypatch):
    """It may not know those of the record."""
    assert parts.as_begun(tmp_path / "none") is parts
    other = {"compiler_options": {"xla_unknown": "1"}, "versions": {"jaxlib": "0.0.1"}}
    monkeypatch.setattr(records, "started_with", lambda path: ({}, [other]))
    assert parts.as_begun(tmp_path) is parts
    other["versions"]["jaxlib"] = jaxlib.__version__
    assert parts.as_begun(tmp_path).compiler_options == {"xla_unknown": "1"}
    monkeypatch.setenv("XLA_FLAGS", "--xla_unknown=2")
    assert parts.as_begun(tmp_path).compiler_options == {}
