"""The campaign of `benchmarks/reliability.py`: whatever strikes a run, its result is right.

The short form has one fault of some kinds; the slow test has all, more than a thousand. The table
of `docs/reliability.md` is that of the recorded campaign.
"""

import collections
import json
import os
import random
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "benchmarks"))

import fault_injection  # noqa: E402
import moment_faults  # noqa: E402
import reliability  # noqa: E402
import trained_runs  # noqa: E402
from trained_runs import Case, Struck  # noqa: E402

RECORD = json.loads((ROOT / "benchmarks/results/reliability.json").read_text())


@pytest.fixture
def two_runs(tmp_path, fast_compilation):
    """`own` and `other`, trained."""
    return trained_runs.train_all(tmp_path / "runs", ("own", "other"))


def test_the_checks_find_a_wrong_result_and_short_campaign_finds_none(two_runs, tmp_path):
    """One test, because training the runs takes most of its time."""
    check_of_checks(two_runs, tmp_path)
    counts = dict.fromkeys(
        [
            *("flipped bit", "removed file", "edited value in well-formed JSON"),
            *("checkpoint of another run", "checkpoint with another name", "record of another run"),
            *("strange names among the files of a run", "kill at a write", "write that fails once"),
            *("readers while the run writes", "directory moved or replaced while the run writes"),
        ],
        1,
    )
    reports = list(reliability.campaign(counts, 1, tmp_path, two_runs))
    assert [report for report in reports if report.failure] == []
    assert len(reports) == len(counts)


def check_of_checks(trained, tmp_path):
    """A campaign would be worth nothing if its checks let wrong results pass."""
    case = Case(trained, tmp_path / "checks", random.Random(0))
    path = case.copy("other")
    with pytest.raises(fault_injection.CaseFailed, match="metrics.jsonl differs"):
        trained_runs.require_result(case, path)
    with pytest.raises(fault_injection.CaseFailed, match="are not those of the run"):
        trained_runs.readable(case, path)
    path.rename(tmp_path / "checks" / "other")
    path = case.copy()
    (path / "summary.json").unlink()
    with pytest.raises(fault_injection.CaseFailed, match="wrong: verify finds no damage"):
        trained_runs.recover(case, Struck("", seen=True))
    with pytest.raises(fault_injection.CaseFailed, match="lost: 1 files that are not the run's"):
        trained_runs.recover(case, Struck("", kept=frozenset({"a digest"})))
    wrong = {"params/head/bias": np.zeros(10, np.float32)}
    other = {"params/head/bias": np.float32([0] * 9 + [-0.0])}
    assert trained_runs.state_of(wrong) != trained_runs.state_of(other)
    with pytest.raises(fault_injection.CaseFailed, match="wrong: KeyError"):
        trained_runs.called({}.__getitem__, "missing")


@pytest.mark.slow
@pytest.mark.parametrize("faults", [100, pytest.param(1000, marks=pytest.mark.long)])
def test_faults_of_every_kind(faults, tmp_path, fast_compilation):
    counts = reliability.plan(faults)
    if not fault_injection.can_mount(tmp_path):
        counts.pop("full disk")
    reports = list(reliability.campaign(counts, RECORD["seed"], tmp_path))
    assert [report for report in reports if report.failure] == []
    found = collections.Counter(report.name for report in reports)
    assert found == counts


def test_the_recorded_campaign_has_all_faults_and_no_failure():
    assert RECORD["faults"] >= 1000
    assert RECORD["wrong"] == RECORD["lost"] == RECORD["stuck"] == 0
    assert {row["kind"]: row["faults"] for row in RECORD["kinds"]} == reliability.plan(1000)
    assert not RECORD["commit"].endswith("+")


def test_the_page_has_the_recorded_tables():
    assert reliability.PAGE.read_text() == reliability.page()


def test_a_change_is_counted_in_its_folder_only(tmp_path):
    seen = []
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
    with moment_faults.before_changes(tmp_path / "here", seen.append):
        (tmp_path / "here/a").mkdir()
        (tmp_path / "there/a").mkdir()
        with (tmp_path / "here/file").open("w") as file:
            os.fsync(file.fileno())
        os.replace(tmp_path / "here/file", tmp_path / "here/b")
    (tmp_path / "here/b").unlink()
    assert seen == [1, 2, 3]


def test_permissions_hold_for_root(tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "file").chmod(0)
    with fault_injection.permissions_hold(), pytest.raises(PermissionError):
        (tmp_path / "file").read_text()
