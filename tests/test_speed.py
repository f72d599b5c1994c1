"""Training steps and the loader are not slower than recorded, relative to a matrix product."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cv_jax.devices import processor

ROOT = Path(__file__).resolve().parent.parent
RECORD = ROOT / "benchmarks" / "results" / "regressions.json"
MARGIN = 2.0  # on a processor with a record
OTHER_MARGIN = 4.0  # on another: the nearest recorded score counts


def test_every_score_is_compared():
    sys.path.insert(0, str(ROOT))
    from benchmarks import regressions

    for entry in json.loads(RECORD.read_text())["processors"].values():
        assert entry["scores"].keys() == {"loader", *regressions.STEPS}


@pytest.mark.slow
def test_speeds_relative_to_a_matrix_product(tmp_path):
    """`python -m benchmarks.regressions --out benchmarks/results/regressions.json` records them."""
    file = tmp_path / "scores.json"
    process = subprocess.run(
        [sys.executable, "-m", "benchmarks.regressions", f"--out={file}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": "", "PYTHONPATH": str(ROOT)},
    )
    assert process.returncode == 0, process.stderr
    ((kind, found),) = json.loads(file.read_text())["processors"].items()
    recorded = json.loads(RECORD.read_text())["processors"]
    for name, score in found["scores"].items():
        if kind in recorded:
            assert score > recorded[kind]["scores"][name] / MARGIN, name
        else:
            lowest = min(entry["scores"][name] for entry in recorded.values())
            assert score > lowest / OTHER_MARGIN, (name, processor.kind())
