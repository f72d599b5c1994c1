"""A short form of `benchmarks/soak.py`, and its record: nothing grows in a long run."""

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "benchmarks"))

import soak  # noqa: E402


@pytest.mark.slow
def test_a_run_with_readers_leaves_nothing(tmp_path):
    found = soak.measure(tmp_path, steps=300, pause=0.5)
    assert found["shared_memory_afterwards"] == 0
    assert found["shared_memory_while_running"] > 0
    assert min(found["readings"]) > 0
    for name, kinds in found["quarters"].items():
        assert soak.is_flat(kinds["descriptors"], growth=1, slack=8), (name, kinds)


def test_growth_is_found():
    flat = [100, 200, 201, 202]
    assert soak.is_flat([x * 2**20 for x in flat])
    assert not soak.is_flat([x * 2**20 for x in (100, 200, 230, 260)])
    samples = [{"memory": value} for value in (9, 9, 1, 1, 2, 2, 5, 5)]
    assert soak.quarters(samples, "memory") == [9, 1, 2, 5]
    quarters = {"memory": [x * 2**20 for x in flat], "descriptors": [9, 9, 9, 30], "threads": flat}
    found = {"quarters": {"run": quarters}, "shared_memory_afterwards": 1, "readings": [3, 0]}
    assert [line.partition(":")[0] for line in soak.objections(found)] == [
        "descriptors of run",
        "1 objects of shared memory are left",
        "a reader read nothing",
    ]


def test_the_recorded_run_is_flat():
    found = json.loads((ROOT / "benchmarks/results/soak.json").read_text())
    assert found["steps"] == 5000
    # The run is flat. A reader grows a little with each reading, in libraries: see the page.
    assert soak.objections(found) == found["objections"]
    assert all(line.startswith("memory of reader") for line in found["objections"])
    assert min(found["readings"]) > 100
    for name, readings in zip(("reader 1", "reader 2"), found["readings"], strict=True):
        memory = found["quarters"][name]["memory"]
        assert memory[-1] - memory[1] < 0.25 * 2**20 * readings / 2
    assert not found["commit"].endswith("+")
