"""The record of a run: which lines, checkpoints and summary a training loop leaves."""

import json
from typing import Any, NamedTuple

import jax.numpy as jnp
import pytest
from event_files import read_points
from PIL import Image

from cv_jax import config as configs
from cv_jax.run.checkpoint import read_metrics
from cv_jax.run.record import Record

FINGERPRINT = {"train": {"sha256": "a"}, "eval": {"sha256": "b"}}


@pytest.fixture
def make(tmp_path):
    """`make(keep_best=…)`: the record of a run of ten steps that logs every second step."""

    def record(total_steps=10, **checkpoint):
        config = configs.default("digits", "linear")
        for name, value in checkpoint.items():
            config.checkpoint[name] = value
        return Record(
            tmp_path,
            config,
            FINGERPRINT,
            total_steps=total_steps,
            log_every=2,
            save_every=4,
            schedule=lambda step: 0.1 * step,
            utilisation=lambda speed: speed / 1000,
        )

    return record


def started(record, step=0):
    assert not record.start(step, None)
    record.open_writers(print)
    return record


def metrics(loss=2.0, count=4, correct=3):
    sums = {"loss": jnp.float32(loss * count), "count": jnp.int32(count)}
    return {"loss": jnp.float32(loss), "sums": {**sums, "correct": jnp.int32(correct)}}


class State(NamedTuple):
    params: Any


def state(value=1.0):
    return State({"w": jnp.full(3, value)})


def lines(folder, file="metrics.jsonl"):
    if not (folder / file).is_file():
        return []
    return [json.loads(line) for line in (folder / file).read_text().splitlines()]


def test_training_lines_are_written_at_the_interval_and_at_the_end(make, tmp_path):
    record = started(make(total_steps=5))
    assert all(record.settle(step, metrics(), 100.0) for step in range(1, 6))
    assert [line["step"] for line in lines(tmp_path)] == [2, 4, 5]
    assert lines(tmp_path)[0] == {
        "step": 2,
        "split": "train",
        "loss": 2.0,
        "accuracy": 0.75,
        "correct": 3,
        "count": 4,
        "learning_rate": 0.1,
    }
    timing = lines(tmp_path, "timing.jsonl")
    assert [(x["images_per_second"], x["utilisation"]) for x in timing] == [(100.0, 0.1)] * 3
    assert record.note == ", loss 2.0000, 10.0% of the peak"


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_is_reported_and_leaves_no_line(make, tmp_path, loss):
    record = started(make())
    assert not record.settle(2, metrics(loss), 1.0)
    assert lines(tmp_path) == []


def test_parameters_that_are_not_finite_are_not_saved(make, tmp_path):
    record = started(make())
    assert not record.save(4, state(float("nan")))
    assert record.saved_step == 0
    assert record.save(4, state())
    record.close(0)
    assert record.saved_step == 4
    assert "checkpoint is 4" in record.last_good_checkpoint()


def test_a_checkpoint_holds_the_lines_and_the_evaluation_of_its_step(make, tmp_path):
    record = started(make(keep_last=2))
    record.evaluated(3, "test", {"loss": 1.0, "accuracy": 0.5})
    record.evaluated(4, "knn", {"accuracy": 0.9})
    assert record.save(4, state())
    record.evaluated(8, "test", {"loss": 0.5, "accuracy": 0.6})
    assert record.save(8, state())
    record.close(0)
    first, second = tmp_path / "checkpoints" / "4", tmp_path / "checkpoints" / "8"
    assert read_metrics(first) == {}  # the evaluation at step 3 belongs to no checkpoint
    assert read_metrics(second) == {"loss": 0.5, "accuracy": 0.6}
    assert [x["step"] for x in lines(first)] == [3, 4]
    assert [x["step"] for x in lines(second)] == [3, 4, 8]


def test_only_a_better_evaluation_named_test_asks_for_a_checkpoint(make):
    record = started(make(keep_best=1))
    for step, name, accuracy, improved in [
        (1, "test", 0.5, True),
        (2, "test", 0.4, False),
        (3, "test", 0.6, True),
        (3, "knn", 0.9, True),  # the evaluation "test" of this step still asks
    ]:
        record.evaluated(step, name, {"loss": 1.0, "accuracy": accuracy})
        assert record.improved == improved, step
    assert record.save(3, state())
    assert not record.improved
    record.close(0)
    plain = make()
    plain.start(0, None)
    plain.open_writers(print)
    plain.evaluated(1, "test", {"loss": 1.0, "accuracy": 0.99})
    assert not plain.improved  # keep_best is 0


def test_a_restart_drops_later_lines_and_knows_the_best(make, tmp_path):
    record = started(make(keep_best=1))
    record.evaluated(4, "test", {"loss": 1.0, "accuracy": 0.8})
    assert record.save(4, state())
    record.evaluated(6, "test", {"loss": 1.0, "accuracy": 0.9})
    record.close(75)

    again = started(make(keep_best=1), step=4)
    assert [line["step"] for line in lines(tmp_path)] == [4]
    again.evaluated(6, "test", {"loss": 1.0, "accuracy": 0.7})
    assert not again.improved
    again.close(75)


def test_a_restart_sends_the_pictures_before_it(make, tmp_path):
    record = started(make())
    for step in (2, 4, 6):
        record.evaluated(step, "test", {"loss": 1.0})
        file = tmp_path / "pictures" / f"{step:08d}.png"
        file.parent.mkdir(exist_ok=True)
        Image.new("L", (step, 1)).save(file)
        record.pictured([file])
        if step == 4:
            assert record.save(step, state())
    record.pictured([])
    record.close(75)

    again = make()
    again.config.log.writers = ("tensorboard",)
    started(again, step=4).close(75)
    points = read_points(tmp_path / "tensorboard")
    assert [(name, step) for name, step, _ in points] == [
        (f"test/{name}", step) for step in (2, 4) for name in ("loss", "reconstruction")
    ]
    assert [value[0] for name, _, value in points if name == "test/reconstruction"] == [2, 4]


def test_the_summary_is_written_once_and_repaired(make, tmp_path):
    record = started(make(total_steps=2))
    record.evaluated(1, "test", {"loss": 0.9, "accuracy": 0.5, "correct": 1, "count": 2})
    record.settle(2, metrics(), 1.0)
    record.evaluated(2, "test", {"loss": 1.0, "accuracy": 0.5, "correct": 1, "count": 2})
    assert record.save(2, state())
    record.close(0)
    result = record.write_summary(7, 70)
    assert result.startswith("test accuracy 50.00% (1 of 2) after 2 steps, in ")
    file = tmp_path / "summary.json"
    written, summary = file.read_bytes(), json.loads(file.read_text())
    assert (summary["parameters"], summary["multiply_adds"]) == (7, 70)
    assert (summary["best_step"], summary["test_loss"], summary["best_test_loss"]) == (1, 1.0, 0.9)

    file.write_bytes(written[:-9])
    again = make(total_steps=2)
    assert again.start(2, None)  # finished: nothing is recorded
    assert again.write_summary(7, 70, again=True) == result
    assert file.read_bytes() == written
    assert len(json.loads((tmp_path / "run.json").read_text())) == 1
