"""The points of a sweep that differ only in numbers share one experiment."""

import dataclasses
from pathlib import Path

import pytest

from cv_jax import config as configs
from cv_jax.config.fields import FIELDS
from cv_jax.errors import InputError
from cv_jax.run import json_files
from cv_jax.sweep import points, trials
from cv_jax.training import experiment

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def built(monkeypatch):
    """The configs of the experiments that were built, in order."""
    found, build = [], experiment.build

    def counting(config, **options):
        found.append(configs.flatten(config))
        return build(config, **options)

    monkeypatch.setattr(trials.experiment, "build", counting)
    return found


@pytest.fixture
def sweep(data_dir):
    """`sweep(values, …)` returns a sweep of `configs/linear.py` with these points."""

    def make(*values, **overrides):
        shared = {"data.dir": str(data_dir), "total_steps": "3", "eval.batch_size": "360"}
        made = tuple(points.make_point(value) for value in values)
        file = str(ROOT / "configs" / "linear.py")
        return points.Sweep(file, "", {**shared, **overrides}, made)

    return make


def prepared(sweep, folder):
    return trials.prepare(sweep, folder, ["python", "launch.py"], lambda flags: None)


def test_one_experiment_is_built_for_many_numbers(sweep, built, tmp_path):
    values = [
        {"batch_size": size, "optim.learning_rate": rate, "seed": seed}
        for size in (32, 64)
        for rate in (1e-3, 1e-2)
        for seed in range(3)
    ]
    found = prepared(sweep(*values), tmp_path)
    assert [config["batch_size"] for config in built] == [32, 64]
    alone = [prepared(sweep(value), tmp_path)[0] for value in values]
    assert found == alone
    assert [trial.batch_size for trial in found] == [32] * 6 + [64] * 6


def test_earlier_points_of_a_search_are_shared(sweep, built, tmp_path):
    kept = {}
    for seed in range(3):
        one = sweep({"seed": seed})
        trials.prepare(one, tmp_path, [], lambda flags: None, kept)
    assert len(built) == 1


@pytest.mark.parametrize(
    ("rate", "message"),
    [
        ("-1", "point optim.learning_rate=-1: config.optim.learning_rate=-1.0 must be at least 0"),
        ("fast", "point optim.learning_rate=fast: config.optim.learning_rate=fast: 'fast' is not"),
        ("1e-2", "point optim.learning_rate=1e-2: the point optim.learning_rate=0.01 has the same"),
    ],
)
def test_a_shared_point_is_checked(sweep, tmp_path, rate, message):
    with pytest.raises(InputError, match=message):
        prepared(
            sweep(*({"optim.learning_rate": value} for value in (0.001, 0.01, rate))), tmp_path
        )


def test_a_run_is_compared_with_its_own_point(sweep, tmp_path):
    """The folder of seed 2 holds the run of another seed."""
    made = sweep({"seed": 1}, {"seed": 2}, {"seed": 3})
    stored = configs.flatten(
        configs.load(made.reference(made.points[1]), made.texts(made.points[1]))
    )
    (tmp_path / "seed=2").mkdir()
    json_files.write_record(tmp_path / "seed=2" / "config.json", stored)
    assert len(prepared(made, tmp_path)) == 3
    json_files.write_record(tmp_path / "seed=2" / "config.json", {**stored, "seed": 5})
    with pytest.raises(InputError, match="point seed=2: .*config.seed: was 5, is now 2"):
        prepared(made, tmp_path)


def test_a_seed_that_decides_other_fields_is_not_shared(sweep, built, tmp_path):
    """Every seed chooses its own training images."""
    made = sweep(
        *({"seed": seed} for seed in range(3)),
        **{"data.subset_seed": "none", "data.fraction": "0.5"},
    )
    prepared(made, tmp_path)
    assert [config["data.subset_seed"] for config in built] == [0, 1, 2]


@pytest.mark.parametrize("name", trials.NUMBERS)
def test_the_range_of_a_number_is_all_that_is_checked(load_config, name):
    """The smallest and the largest value are allowed, and leave everything else as it is."""
    field = FIELDS[name]
    low = field.minimum if field.minimum is not None else field.above
    high = field.maximum if field.maximum is not None else field.below
    middle = {**{name: str(field.default)}, "total_steps": 10, "schedule.warmup_steps": 2}
    one = experiment.build(load_config("linear", middle))
    for value in (low, 1e9 if high is None else high if field.below is None else 0.999):
        other = experiment.build(load_config("linear", {**middle, name: f"{value}"}))
        for part in dataclasses.fields(one):
            if part.name in ("model", "num_classes", "input_shape", "total_steps", "fingerprint"):
                assert getattr(one, part.name) == getattr(other, part.name)
