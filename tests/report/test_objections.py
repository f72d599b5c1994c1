"""A trial whose files cannot be believed is named, and left out of means and of the best."""

import json
import os

import pytest
import sweeps

from cv_jax.__main__ import main
from cv_jax.evaluation.metrics import implausible, quality
from cv_jax.report import results
from cv_jax.run import json_files
from cv_jax.sweep import search


@pytest.fixture
def folder(tmp_path):
    """Folder of a sweep with two settings; the second one is better."""
    points = [{"optim.learning_rate": rate, "seed": k} for rate in (0.1, 0.2) for k in (0, 1)]
    for point in sweeps.write(tmp_path / "sweep", points):
        rate = point.overrides["optim.learning_rate"]
        words = ["launch.py", "--workdir", f"/elsewhere/{point.name}"]
        sweeps.finish(
            tmp_path / "sweep",
            point,
            0.5 + rate,
            config={"optim.learning_rate": rate},
            conditions={"command": words},
        )
    return tmp_path / "sweep"


def trial(folder, rate=0.2, seed=1):
    return folder / f"optim.learning_rate={rate},seed={seed}"


def change_last(path, **values):
    """Change values of the last metric line, as an editor would."""
    *lines, last = (path / "metrics.jsonl").read_text().splitlines()
    last = json.dumps({**json.loads(last), **values})
    (path / "metrics.jsonl").write_text("\n".join([*lines, last]) + "\n")


def change_summary(path, **values):
    """Change values of the summary together with its checksum, as a faulty program would."""
    record = json_files.read_record(path / "summary.json")
    json_files.write_record(path / "summary.json", {**record, **values})


def exchange(path, other):
    path.rename(path.with_name("aside"))
    other.rename(path)
    path.with_name("aside").rename(other)


def both(path, **values):
    change_last(path, **values)
    change_summary(path, **{f"test_{name}": value for name, value in values.items()})


def save_lines(path):
    """Write the metric lines that the newest checkpoint would hold."""
    copy = path / "checkpoints/20/metrics.jsonl"
    copy.parent.mkdir(parents=True)
    copy.write_text((path / "metrics.jsonl").read_text())


def test_sound_trials_are_counted(folder):
    save_lines(trial(folder))
    _, found = results.read(folder)
    assert [result.state for result in found] == ["done"] * 4


CASES = {
    "a share above one": (
        lambda path: both(path, accuracy=5.0),
        "accuracy is 5.0, not between 0 and 1, at step 20",
    ),
    "NaN": (lambda path: both(path, accuracy=float("nan")), "accuracy is nan, not between 0 and 1"),
    "a loss without end": (lambda path: both(path, loss=float("inf")), "loss is inf"),
    "a text": (lambda path: both(path, loss="low"), "loss is 'low', not a number"),
    "more correct than counted": (
        lambda path: change_last(path, correct=9, count=8),
        "correct is 9, of 8",
    ),
    "an edited line": (
        lambda path: change_last(path, accuracy=0.9),
        "metrics.jsonl and summary.json differ in test_accuracy",
    ),
    "an edited line without a counterpart in the summary": (
        lambda path: (save_lines(path), change_last(path, loss=0.01)),
        "metrics.jsonl differs from the metric lines in checkpoint 20",
    ),
    "a damaged summary": (lambda path: (path / "summary.json").write_text("{"), "file is damaged"),
    "no lines": (
        lambda path: (path / "metrics.jsonl").unlink(),
        "metrics.jsonl and summary.json differ in test_accuracy",
    ),
    "a line of another kind": (
        lambda path: (path / "metrics.jsonl").write_text("3\n"),
        "a file is damaged",
    ),
    "NaN among the times": (
        lambda path: (path / "timing.jsonl").write_text('{"step": 20, "seconds": NaN}\n'),
        "timing.jsonl: seconds is nan",
    ),
    "a summary of another run": (
        lambda path: change_summary(path, seed=7),
        "summary.json is of another run: seed: 7",
    ),
    "a config of another run": (
        lambda path: (path / "config.json").write_bytes(
            (path.with_name("optim.learning_rate=0.1,seed=1") / "config.json").read_bytes()
        ),
        "it is the run of another point: optim.learning_rate is 0.1, not 0.2",
    ),
    "starts of another run": (
        lambda path: (path / "run.json").write_bytes(
            (path.with_name("optim.learning_rate=0.1,seed=1") / "run.json").read_bytes()
        ),
        "it is the run of another point: optim.learning_rate=0.1,seed=1",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_trial_that_cannot_be_believed_is_named_and_left_out(case, folder, capsys):
    change, reason = CASES[case]
    change(trial(folder))
    assert main(["report", str(folder)]) == 1
    out = capsys.readouterr().out
    (line,) = [x for x in out.splitlines() if x.startswith("- optim.learning_rate=0.2,seed=1: ")]
    assert "not counted: " in line
    assert reason in line
    row = next(x for x in out.splitlines() if x.startswith("| 0.2 "))
    assert "70.00 %" in row  # of seed 0
    assert "1/2" in row
    assert "500" not in row


def test_exchanged_trials_are_named(folder, capsys):
    exchange(trial(folder, 0.1, 0), trial(folder, 0.2, 0))
    assert main(["report", str(folder)]) == 1
    out = capsys.readouterr().out
    for own, other in ((0.1, 0.2), (0.2, 0.1)):
        text = f"it is the run of another point: optim.learning_rate is {other}, not {own}"
        assert f"optim.learning_rate={own},seed=0: not counted: {text}" in out


def test_trials_that_differ_in_an_argument_of_the_config_are_told_apart_by_their_command(tmp_path):
    for point in sweeps.write(tmp_path, [{"depth": 2}, {"depth": 3}]):
        words = ["launch.py", "--workdir", str(tmp_path / point.name)]
        sweeps.finish(tmp_path, point, 0.5, conditions={"command": words})
    exchange(tmp_path / "depth=2", tmp_path / "depth=3")
    _, found = results.read(tmp_path)
    assert [result.state for result in found] == [
        f"not counted: it is the run of another point: depth={n}" for n in (3, 2)
    ]


@pytest.mark.parametrize(
    ("text", "stored"),
    [("1e-1", 0.1), ("none", None), ("8,16", [8, 16]), (0.1, 0.1), ((8, 16), [8, 16])],
)
def test_values_that_are_written_differently_are_equal(tmp_path, text, stored):
    name = "model.widths" if "8" in str(text) else "optim.clip_norm"
    (point,) = sweeps.write(tmp_path, [{name: text}])
    sweeps.finish(tmp_path, point, 0.5, config={name: stored})
    _, (result,) = results.read(tmp_path)
    assert result.state == "done"


def test_not_a_number_is_worse_than_any_number():
    assert quality({"loss": float("nan")}) < quality({"loss": 1e30})
    assert quality({"accuracy": float("nan")}) < quality({"accuracy": 0.0})
    assert (
        implausible({"split": "test", "loss": 0.1, "accuracy": 1, "correct": 2, "count": 2}) is None
    )
    assert implausible({"accuracy": True}) == "accuracy is True, not a number"
    assert implausible({"count": -1}) == "count is -1"


def test_a_search_does_not_learn_from_impossible_values(folder):
    change_last(trial(folder), accuracy=5.0)
    assert search.curve_of(trial(folder)) == {10: 0.1}
    change_last(trial(folder), accuracy=float("nan"))
    assert search.curve_of(trial(folder)) == {10: 0.1}


def test_a_pipe_in_a_checkpoint_does_not_stop_a_report(folder):
    copy = trial(folder) / "checkpoints/20/metrics.jsonl"
    copy.parent.mkdir(parents=True)
    os.mkfifo(copy)
    _, found = results.read(folder)
    assert [result.state for result in found] == ["done"] * 4
