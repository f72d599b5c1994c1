"""Searches: ranges, random points, proposals of Optuna, pruning, and the command."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cv_jax.errors import InputError
from cv_jax.report import results
from cv_jax.run import json_files
from cv_jax.sweep import folder as folders
from cv_jax.sweep import search
from cv_jax.sweep.folder import Trial
from cv_jax.sweep.points import make_point
from cv_jax.sweep.ranges import choice, integer, log_uniform, uniform

sys.path.insert(0, str(Path(__file__).parent))
ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import launch  # noqa: E402

RANGES = {
    "optim.learning_rate": log_uniform(1e-4, 1.0),
    "model.dropout_rate": uniform(0.0, 0.5),
    "depth": integer(2, 5),
    "optim.name": choice("sgd", "adamw"),
}


# ---- Ranges


@given(st.floats(0, 1, exclude_max=True), st.integers(-9, 9), st.integers(1, 50))
def test_values_are_in_the_range_and_increase_with_the_share(share, low, span):
    for range in (integer(low, low + span), uniform(low, low + span), log_uniform(0.1, 0.1 + span)):
        value = range.at(share)
        assert range.low <= value <= range.high
        assert value <= range.at(min(share + 0.1, 1 - 1e-9))
        assert len(f"{value:.17g}".strip("-0.").replace(".", "")) > 4 or value == range.plain(value)


def test_each_value_of_a_discrete_range_is_equally_likely():
    shares = np.arange(0.0005, 1, 0.001)
    for range in (integer(3, 6), choice("a", "b", "c", (1, 2))):
        _, counts = np.unique([str(range.at(share)) for share in shares], return_counts=True)
        np.testing.assert_array_equal(counts, [250] * 4)


def test_a_logarithmic_range_gives_each_decade_the_same_probability():
    values = np.array([log_uniform(1e-4, 1.0).at(share) for share in np.arange(0.0005, 1, 0.001)])
    counts, _ = np.histogram(np.log10(values), bins=4)
    np.testing.assert_array_equal(counts, [250] * 4)


@pytest.mark.parametrize(
    "make",
    [
        choice,
        lambda: integer(1.5, 3),
        lambda: integer(3, 3),
        lambda: uniform(2, 1),
        lambda: log_uniform(0.0, 1.0),
        lambda: uniform(0, float("inf")),
    ],
)
def test_an_invalid_range_is_an_error(make):
    with pytest.raises(ValueError, match=r"needs|must"):
        make()


# ---- Points


def test_random_values_depend_on_their_index_and_key_only():
    first = [search.draw(RANGES, i, 0) for i in range(50)]
    assert first == [search.draw(RANGES, i, 0) for i in range(50)]
    assert len({json.dumps(values) for values in first}) == 50
    fewer = {key: RANGES[key] for key in ("depth", "optim.name")}
    for i, values in enumerate(first):
        assert search.draw(fewer, i, 0) == {key: values[key] for key in fewer}
    assert {values["depth"] for values in first} == {2, 3, 4, 5}
    # Two ranges are independent; with shared draws their correlation would be 1.
    rates = np.log([values["optim.learning_rate"] for values in first])
    drops = [values["model.dropout_rate"] for values in first]
    assert abs(np.corrcoef(rates, drops)[0, 1]) < 0.4


def test_optuna_approaches_the_optimum_with_all_kinds_of_ranges():
    pytest.importorskip("optuna")
    ranges = {**RANGES, "model.widths": choice((8,), (8, 8), None)}
    past = []
    for i in range(40):
        values = search.propose(ranges, past, seed=i)
        assert values == search.propose(ranges, past, seed=i)
        assert values["model.widths"] in ranges["model.widths"].choices
        off = abs(np.log10(values["optim.learning_rate"]) + 2) + (values["optim.name"] == "sgd")
        state = ("finished", "pruned", "open")[i % 3 if i % 5 == 0 else 0]
        past.append(search.Past(values, state, {1: -off - 1, 2: -off} if state != "open" else {}))
    late = past[20:]
    rates = np.log10([trial.values["optim.learning_rate"] for trial in late])
    assert np.median(np.abs(rates + 2)) < 0.5  # the median of random points would be 1
    assert np.mean([trial.values["optim.name"] == "adamw" for trial in late]) > 0.7


def swept(*values, method="random"):
    return folders.Sweep("c.py", "", {}, tuple(map(make_point, values)), {"method": method})


def trial_of(sweep):
    return [Trial(point.name, [], Path(), Path(), 1, 1) for point in sweep.points]


def test_invalid_and_repeated_points_are_replaced(tmp_path):
    def prepare(sweep):
        if sweep.points[0].arguments["depth"] == 3:
            raise InputError("not three")
        return trial_of(sweep)

    sweep, draws = swept(), search.Search({"depth": integer(1, 4)}, tmp_path, prepare)
    for _ in range(3):
        sweep, trial = draws.next_point(sweep, [])
        assert trial.name == sweep.points[-1].name
    assert sorted(point.arguments["depth"] for point in sweep.points) == [1, 2, 4]
    with pytest.raises(InputError, match="no valid new point: (not three|all points are in)"):
        draws.next_point(sweep, [])


def test_proposals_are_stored_before_they_start_and_end_without_new_points(tmp_path):
    pytest.importorskip("optuna")
    messages, sweep = [], swept({"depth": 1}, method="optuna")
    draws = search.Search({"depth": integer(1, 3)}, tmp_path, trial_of)
    for count, trial in enumerate(draws.proposals(sweep, 10, messages.append), 2):
        assert folders.read(tmp_path).points[-1].name == trial.name
        assert len(folders.read(tmp_path).points) == count
    assert count == 3
    assert "the search ends with 3 trials" in messages[0]


# ---- Pruning


def write_run(path, accuracies, finished=True):
    path.mkdir()
    lines = [{"step": 10 * i, "split": "test", "accuracy": a} for i, a in enumerate(accuracies, 1)]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (path / "metrics.jsonl").write_text(text)
    if finished:
        summary = {"step": 30, "test_accuracy": 0.9, "test_loss": 1.0}
        json_files.write_record(path / "summary.json", summary)


def test_a_trial_below_the_median_of_the_others_is_pruned(tmp_path):
    for i, end in enumerate((0.5, 0.6, 0.7, 0.8)):
        write_run(tmp_path / f"done{i}", [0.2, end, 0.1])
    trial = Trial("one", [], tmp_path / "one", tmp_path / "one.log", 30, 8)
    prune = search.Pruner(tmp_path)
    assert prune(trial) is None  # no evaluation yet
    write_run(trial.workdir, [0.1], finished=False)
    assert prune(trial) is None  # four finished trials are too few
    write_run(tmp_path / "done4", [0.3, 0.9, 0.1])
    prune = search.Pruner(tmp_path)
    assert prune(trial) == {"step": 10, "best": 0.1, "median": 0.2}
    for accuracies, pruned in (([0.2], False), ([0.3, 0.6], True), ([0.7, 0.1], False)):
        trial = trial._replace(name=f"{accuracies}", workdir=tmp_path / f"{accuracies}")
        write_run(trial.workdir, accuracies, finished=False)
        assert bool(search.Pruner(tmp_path)(trial)) == pruned, accuracies
    write_run(tmp_path / "end", [0.0, 0.0, 0.0], finished=False)
    assert prune(trial._replace(name="end", workdir=tmp_path / "end")) is None  # at its last step


def test_the_state_of_a_point_is_read_from_its_run_directory(tmp_path):
    point = make_point({"depth": 3, "seed": 1})
    assert search.remember(tmp_path / "none", point) == ({"depth": 3, "seed": 1}, "open", {})
    write_run(tmp_path / "run", [0.4, 0.5], finished=False)
    assert search.remember(tmp_path / "run", point)[1:] == ("open", {10: 0.4, 20: 0.5})
    (tmp_path / "run" / "pruned.json").write_text("{}")
    assert search.remember(tmp_path / "run", point).state == "pruned"
    json_files.write_record(tmp_path / "run" / "summary.json", {})
    assert search.remember(tmp_path / "run", point).state == "finished"


def test_the_report_lists_pruned_trials(tmp_path):
    sweep = swept({"depth": 1})
    folder = tmp_path / "search"
    with folders.claimed(folder, sweep):
        write_run(folder / "depth=1", [0.4, 0.5], finished=False)
        (folder / "depth=1" / "pruned.json").write_text("{}")
    _, (result,) = results.read(folder)
    assert result.state == "given up at step 20"


# ---- The command

CONFIG = (
    (ROOT / "configs" / "linear.py").read_text()
    + """
from cv_jax.sweep.ranges import choice, log_uniform

def search():
    return {"optim.learning_rate": log_uniform(1e-3, 1e-1), "image_size": choice(8, 16)}
"""
)


@pytest.fixture
def call(tmp_path, data_dir):
    """`call(text, "--search", …)` runs the command in this process and returns its exit code."""

    def run(text, *arguments):
        (tmp_path / "small.py").write_text(text)
        flags = ["--config", str(tmp_path / "small.py"), f"--config.data.dir={data_dir}"]
        flags += ["--config.total_steps=2", "--config.eval.batch_size=360"]
        return launch.main([*flags, "--sweep_dir", str(tmp_path / "search"), *arguments])

    return run


@pytest.mark.parametrize(
    ("body", "arguments", "message"),
    [
        ("return {}", [], "must return a dict of ranges"),
        ("return {'seed': 3}", [], "seed is not a range"),
        ("return {'seed': integer(3, 1)}", [], r"small.py:\d+: ValueError: a range must have low"),
        ("return {'se ed': integer(1, 3)}", [], "neither a field nor"),
        ("return {'optim.learning_rat': integer(1, 3)}", [], "did you mean .*learning_rate"),
        ("return {'seed': choice(1, '1')}", [], "seed has equal choices: 1, '1'"),
        ("return {'seed': integer(1, 3)}", ["--trials=99999"], "at least 1 and at most 10000"),
        ("return {'depth': integer(1, 3)}", [], "no valid new point: point depth="),
        ("return {'batch_size': integer(8, 9)}", ["--config.batch_size=8"], "set it once"),
        ("return {'seed': integer(1, 3)}", ["--trials=4"], "no valid new point: all points are"),
        ("return {'seed': integer(1, 3)}", ["--trials=0"], "at least 1"),
        ("return {'seed': integer(1, 3)}", ["--search=grid"], "allowed are random, optuna"),
    ],
)
def test_an_input_error_is_raised_before_any_write(call, tmp_path, body, arguments, message):
    text = f"{CONFIG}\nfrom cv_jax.sweep.ranges import choice, integer\ndef search():\n    {body}\n"
    with pytest.raises(InputError, match=message) as caught:
        call(text, *(arguments if "--search=grid" in arguments else ["--search", *arguments]))
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["small.py"]


def test_the_points_of_a_random_search_are_listed(call, capsys):
    for count in (2, 4):
        assert call(CONFIG, "--search", f"--trials={count}", "--dry_run") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines[1:3]] == [line.split()[:2] for line in lines[5:7]]
    assert lines[-1].startswith("4 trials on 1 slots")


@pytest.mark.slow
def test_a_search_continues(call, tmp_path, capsys):
    pytest.importorskip("optuna")
    assert call(CONFIG, "--search=optuna", "--trials=1") == 0
    assert call(CONFIG, "--search=optuna", "--trials=2") == 0
    captured = capsys.readouterr()
    assert captured.err.count("finished before") == 1
    stored = folders.read(tmp_path / "search")
    assert len(stored.points) == 2
    assert f"best: {stored.points[0].name}" in captured.out
    with pytest.raises(InputError, match="search: was .*optuna.*, is now .*random"):
        call(CONFIG, "--search")
    with pytest.raises(InputError, match="holds another sweep"):
        call(CONFIG.replace("1e-1", "2e-1"), "--search=optuna")
