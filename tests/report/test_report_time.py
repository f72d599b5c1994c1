"""The time to write the page of an ordinary run, with nothing compiled before."""

import time

import numpy as np
import pytest

from cv_jax.__main__ import main
from cv_jax.devices import compile_cache
from cv_jax.models import vit
from cv_jax.training import experiment

SECONDS = 24  # of the processor, on a busy machine; about 10 on a free one
TRACES = 6  # of the network; each takes about as long as an import of JAX


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    yield
    monkeypatch.undo()
    compile_cache.use("auto")


@pytest.fixture
def run(load_config, tmp_path):
    """A run directory of ViT-Ti with a checkpoint of its initial weights."""
    parts = experiment.build(load_config("vit_ti16", {"total_steps": 100, "mesh.devices": 1}))
    record = parts.record(tmp_path / "run")
    (tmp_path / "run").mkdir()
    state = parts.init()()
    record.start(0, None)
    record.open_writers(print)
    sums = {"loss": np.float32(64), "count": np.int32(64), "correct": np.int32(7)}
    for step in (50, 100):
        record.settle(step, {"loss": np.float32(1), "sums": sums}, 100.0)
        record.evaluated(step, "test", {"loss": 1.0, "accuracy": 0.5, "correct": 5, "count": 10})
    assert record.save(100, state)
    record.close(0)
    record.write_summary(*parts.sizes)
    return tmp_path / "run"


@pytest.mark.slow
def test_processor_time_of_a_report(run, empty_cache, monkeypatch):
    traces, blocks = [], vit.run_blocks
    monkeypatch.setattr(vit, "run_blocks", lambda *x, **y: traces.append(x) or blocks(*x, **y))
    begun = time.process_time()
    assert main(["report", str(run)]) == 0
    used = time.process_time() - begun
    page = (run / "report.html").read_text()
    for section in ("Confusion matrix", "attention maps", "effective field", "positions"):
        assert section in page
    assert page.count("Left out") == 1  # the difference from the recipe
    assert len(page) < 3e6
    assert len(traces) <= TRACES
    assert used < SECONDS
