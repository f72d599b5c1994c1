"""The course from its command to its page: one chapter, whose networks train for two steps."""

import json
import os
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest

from cv_jax.course import chapters, estimate, run
from cv_jax.errors import ExitCode
from cv_jax.sweep import trials

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import launch  # noqa: E402

Named = namedtuple("Named", "name")
SHORT = {"total_steps": "2", "batch_size": "8", "schedule.warmup_epochs": "none"}


@pytest.mark.slow
def test_a_chapter_runs_stops_continues_and_has_a_page(tmp_path, data_dir):
    out = tmp_path / "out"
    script = tmp_path / "course.py"
    script.write_text(
        "import sys\n"
        "from cv_jax import signals\n"
        "signals.watch()\n"
        "from cv_jax.devices import start\n"
        "start.load_jax()\n"
        "from cv_jax.course import chapters\n"
        "linear = chapters.LINEAR\n"
        f"overrides = { ({**SHORT, 'data.dir': str(data_dir)})!r}\n"
        "study = linear.studies[0]._replace(overrides=overrides, seeds=1)\n"
        "chapters.CHAPTERS = (linear._replace(studies=(study,)),)\n"
        "from cv_jax.commands import course\n"
        "sys.exit(course.main(sys.argv[1:]))\n"
    )
    command = [sys.executable, str(script), "--out", str(out), "--slots", "2"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    process = subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=900
    )
    assert process.returncode == ExitCode.DONE, process.stderr
    assert "6 of 6 trials done" in process.stdout
    text = (out / "course.md").read_text()
    assert "**Verdict on digits: open.** 6 of 6 checks have no interval" in text  # one seed
    assert text.count(", one seed |") == 6
    assert (out / "pictures" / "linear-1.png").stat().st_size > 1000
    assert "Left out" not in text
    assert "not measured" not in text
    measured = json.loads(next((out / "runs").glob("*/*linear*.measured.json")).read_text())
    assert -1 <= measured["values"]["own_cosine"] <= 1

    again = subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=300
    )
    assert again.returncode == ExitCode.DONE
    assert "trials done" not in again.stdout  # nothing was run
    assert "written to" in again.stdout


def test_the_estimate_counts_starts_updates_and_products(monkeypatch):
    size = trials.Size("point", 100, 2_000_000, steps=50, batch_size=30)
    monkeypatch.setattr(trials, "sizes", lambda sweep: [size._replace(point=Named("a"))])
    (cost,) = estimate.costs(None, speed=1e9)
    assert cost[:4] == ("a", 100, 2_000_000, 50)
    products = 50 * 30 * 2_000_000 / 1e9
    assert cost.seconds == pytest.approx(estimate.START + 50 * estimate.UPDATE + products)


def test_a_study_that_needs_another_can_be_counted_without_it():
    for study in (s for chapter in chapters.CHAPTERS for s in chapter.studies):
        alone = run.alone(study)
        assert "{out}" not in str(alone)
        assert alone.arguments.keys() == study.arguments.keys()
    needing = [s for chapter in chapters.CHAPTERS for s in chapter.studies if s.needs]
    assert [run.alone(s).arguments["digits"] for s in needing] == ["digits"] * len(needing)


def test_the_command_of_a_study_is_a_plain_sweep(tmp_path):
    study = chapters.CHAPTERS[0].studies[0]
    words = run.flags(study, "digits", tmp_path, 3, ["--slots", "2"])
    assert words[:2] == ["--config", run.reference(study, "digits", tmp_path)]
    assert words[-2:] == ["--slots", "2"]
    assert "--sweep=crops" in words
    assert words[words.index("--seeds") + 1] == "3"
    flags, overrides = launch.parse_arguments(words)
    assert flags.sweep_dir == tmp_path / "crops"
    assert overrides == {}
