"""Where the time of a run went, from lines whose times are known."""

from pathlib import Path

import numpy as np
import pytest

from cv_jax.report import timing
from cv_jax.report.run_files import RunFiles

FIRST = {"step": 1, "seconds": 2.0, "first_step_seconds": 10.0, "compile_seconds": 4.0}


def run_of(times, evaluated=()):
    lines = [{"step": step, "split": "test"} for step in evaluated]
    lines += [{"step": line["step"], "split": "train"} for line in times]
    config = {"batch_size": 10}
    return RunFiles(Path("r"), config, [], (), lines, times, {}, "", [], None, None)


def lines_of(*pairs):
    return [{"step": step, "seconds": seconds} for step, seconds in pairs]


def test_parts():
    """A step takes 0.1 s, and the evaluations of steps 11 and 31 take 3 s each."""
    times = [FIRST, *lines_of((11, 3.0), (21, 7.0), (31, 8.0), (41, 12.0))]
    found = [part.seconds for part in timing.parts(run_of(times, evaluated=(11, 31)))]
    assert found == pytest.approx([6.0, 4.0, 4.0, 6.0])


def test_parts_with_an_evaluation_between_all_lines():
    """Steps and evaluations cannot be told apart."""
    parts = timing.parts(run_of([FIRST, *lines_of((11, 6.0), (21, 10.0))], evaluated=(1, 11, 21)))
    assert [part.name for part in parts][2:] == ["training steps, evaluations, checkpoints"]
    assert parts[2].seconds == pytest.approx(8.0)


def test_parts_of_a_restarted_run():
    second = {**FIRST, "step": 22, "first_step_seconds": 5.0, "compile_seconds": 1.0}
    times = [FIRST, *lines_of((11, 3.0), (21, 4.0)), second, *lines_of((32, 3.0))]
    times[3]["seconds"] = 1.0
    times[4]["seconds"] = 2.0
    found = [part.seconds for part in timing.parts(run_of(times))]
    assert found == pytest.approx([6.0 + 4.0, 4.0 + 1.0, 3.0, 0.0])


def test_no_lines():
    assert timing.parts(run_of([])) == []
    assert len(timing.clock_of_steps([])[0]) == 0


def test_the_clock_goes_on_after_a_kill():
    """Steps 11 to 21 are made twice: the second time counts. The clock begins after 8 s."""
    second = {"step": 12, "seconds": 1.0, "first_step_seconds": 4.0}
    times = [FIRST, *lines_of((11, 3.0), (21, 4.0)), second, *lines_of((21, 2.0), (31, 3.0))]
    steps, seconds = timing.clock_of_steps(times)
    assert steps.tolist() == [1, 11, 12, 21, 31]
    # The first process ends at 8 + 4 = 12 s; the clock of the second begins 3 s later.
    np.testing.assert_allclose(seconds, [10, 11, 16, 17, 18])


def test_speeds_within_one_process():
    steps, values = timing.speeds([*lines_of((10, 1.0), (20, 2.0), (30, 1.0), (50, 2.0))], 5)
    assert steps.tolist() == [20, 50]
    np.testing.assert_allclose(values, [50.0, 100.0])
