"""A short campaign of `benchmarks/faults.py`: runs with faults end like uninterrupted runs.

The full campaign is `python benchmarks/faults.py`; its counts are in
`benchmarks/results/faults.json`.
"""

import os
import random
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "benchmarks"))

import fault_injection  # noqa: E402
import faults  # noqa: E402


@pytest.fixture(scope="module")
def references(tmp_path_factory, data_dir):
    folder = tmp_path_factory.mktemp("uninterrupted")
    return {
        kind: faults.uninterrupted(kind, folder / kind, data_dir) for kind in ("batch_norm", "ema")
    }


@pytest.mark.slow
@pytest.mark.long  # `test_reliability.py` is the shorter form
@pytest.mark.parametrize(
    ("seed", "kind", "names"),
    [
        (0, "batch_norm", ["kill while saving", "flipped bit"]),
        (1, "ema", ["kill", "truncated file", "SIGTERM while saving"]),
        (2, "ema", ["full disk", "flipped bit in every checkpoint"]),
        (3, "batch_norm", ["limit on the size of files", "removed file", "unreadable file"]),
    ],
)
def test_a_run_with_faults_ends_like_an_uninterrupted_run(
    tmp_path, data_dir, references, seed, kind, names
):
    if "full disk" in names and not fault_injection.can_mount(tmp_path):
        pytest.skip("mounting a tmpfs needs root")
    report = faults.run_case(
        seed, {kind: references[kind]}, data_dir, tmp_path / "case", faults=names
    )
    assert report.failure is None, report
    assert report.faults, report


def test_a_wrong_result_fails_the_case(references):
    result = references["ema"].result
    faults.compare(result, result)
    name = next(name for name, array in result[0].items() if array.ndim)
    wrong = result[0][name].copy()
    wrong.view("uint8").reshape(-1)[0] ^= 1
    with pytest.raises(fault_injection.CaseFailed, match="the array"):
        faults.compare(({**result[0], name: wrong}, *result[1:]), result)
    with pytest.raises(fault_injection.CaseFailed, match="instead of"):
        faults.compare((*result[:-1], result[-1].replace("1", "2")), result)


def test_one_bit_is_flipped(tmp_path):
    (tmp_path / "file").write_bytes(bytes(range(200)))
    fault_injection.flip_bit(tmp_path / "file", random.Random(1))
    data = (tmp_path / "file").read_bytes()
    assert len(data) == 200
    assert sum((a ^ b).bit_count() for a, b in zip(data, range(200), strict=True)) == 1
    assert os.stat(tmp_path / "file").st_size == 200
