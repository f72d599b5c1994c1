"""The kind "sequence": metrics against an independent reference, and mistakes in its options."""

import functools
import json

import jax
import numpy as np
import pytest

from cv_jax.data import strips
from cv_jax.evaluation import sequence_metrics
from cv_jax.evaluation.kinds import make_evaluator
from cv_jax.evaluation.run import table
from cv_jax.models.decoder import EOS, PAD

SMALL = {
    "model.width": 12,
    "model.num_heads": 2,
    "model.depth": 1,
    "model.decoder_depth": 1,
    "mesh.devices": 1,
    "batch_size": 16,
    "total_steps": 2,
}


@functools.cache
def distance(a, b):
    """Levenshtein distance by its definition."""
    if not a or not b:
        return len(a) + len(b)
    if a[0] == b[0]:
        return distance(a[1:], b[1:])
    return 1 + min(distance(a[1:], b), distance(a, b[1:]), distance(a[1:], b[1:]))


def padded(rows, length):
    found = np.full((len(rows), length), PAD)
    for out, row in zip(found, rows, strict=True):
        out[: len(row)] = row
    return found


def test_edit_distances():
    rng = np.random.default_rng(0)
    a = [tuple(rng.integers(3, 6, n)) for n in rng.integers(0, 6, 60)]
    b = [tuple(rng.integers(3, 6, n)) for n in rng.integers(0, 8, 60)]
    expected = [distance(x, y) for x, y in zip(a, b, strict=True)]
    ended = padded([(*x, EOS) for x in a], 7), padded([(*x, EOS) for x in b], 9)
    np.testing.assert_array_equal(sequence_metrics.edit_distances(*ended), expected)
    # Without EOS, a sequence is all of its tokens.
    whole = np.array([[3, 4, 5]]), np.array([[3, 5, EOS]])
    np.testing.assert_array_equal(sequence_metrics.edit_distances(*whole), [1])


def test_metrics_by_length():
    truth = padded([(3, 4, EOS), (5, 5, EOS), (3, 3, 4, EOS)], 5)
    greedy = padded([(3, 4, EOS), (5, EOS), (3, 4, 4, 4, 4)], 5)
    found = sequence_metrics.summary(truth, {"greedy": greedy, "beam": truth})
    assert found["accuracy"] == 1 / 3
    assert (found["correct"], found["count"]) == (1, 3)
    assert found["token_accuracy"] == (3 + 1 + 2) / 10
    assert found["edit_distance"] == (0 + 1 + 3) / 3  # the third: one replaced, two inserted
    assert (found["beam_accuracy"], found["beam_edit_distance"]) == (1, 0)
    rows = sequence_metrics.by_length(truth, {"greedy": greedy})
    assert [row["length"] for row in rows] == [2, 3]
    assert rows[0] == {
        "length": 2,
        "accuracy": 0.5,
        "correct": 1,
        "count": 2,
        "token_accuracy": 4 / 6,
        "edit_distance": 0.5,
    }


@pytest.fixture(scope="module")
def build_numbers(build, numbers_dir):
    def build_numbers(extra="", name="image_transformer:numbers", **overrides):
        name, _, argument = name.partition(":")
        small = SMALL if name == "image_transformer" else {}
        return build(extra, name, argument, **{**small, "data.dir": numbers_dir, **overrides})

    return build_numbers


@pytest.mark.slow
def test_an_untrained_model(build_numbers):
    parts = build_numbers("sequence(name='longer', split='longer', beams=0, max_length=9)")
    own, longer = parts.evaluations
    assert (own.kind, own.options["beams"], own.options["max_length"]) == ("sequence", 4, 10)
    state = parts.init()()
    found = {e.name: make_evaluator(parts, e)(state.eval_variables) for e in parts.evaluations}
    metrics = found["test"].metrics
    assert metrics["count"] == 24
    assert metrics["accuracy"] <= 0.1
    assert metrics["edit_distance"] > 1
    assert "beam_accuracy" in metrics
    assert "beam_accuracy" not in found["longer"].metrics
    lengths = [len(strips.example("longer", i).digits) for i in range(12)]
    rows = found["longer"].details["by_length"]
    assert {row["length"]: row["count"] for row in rows} == {
        n: lengths.count(n) for n in sorted(set(lengths))
    }
    assert "longer" in table(found, own.classes)
    json.dumps(found["longer"].details)


@pytest.mark.slow
def test_steps_of_training(build_numbers):
    parts = build_numbers(**{"data.fraction": 0.5})
    assert len(parts.train_images.source) == 48
    state, step = parts.init()(), parts.train_step()
    for batch in parts.train_batches(0):
        assert batch["label"].shape == (16, 5)
        state, metrics = step(state, batch)
        assert np.isfinite(metrics["loss"])
    assert jax.device_get(metrics["sums"])["count"] == 32


@pytest.mark.parametrize(
    ("extra", "name", "overrides", "message"),
    [
        ("knn", "", {}, "the kind knn does not suit image_transformer_ti; allowed: sequence"),
        ("classification", "", {}, "the kind classification does not suit image_transformer_ti"),
        ("sequence(max_length=3)", "", {}, "max_length=3: test of numbers has sequences of 6"),
        ("sequence(beams=-1)", "", {}, "config.eval.beams=-1 must be at least 0"),
        ("", "", {"eval_preprocess": "flips"}, "only classifiers average views"),
        ("", "", {"augment": "mixup(0.2)"}, "labels that are tokens cannot be mixed"),
        ("", "", {"data.per_class": 3}, "a label of numbers is a sequence of classes"),
        ("", "mlp:numbers", {}, "mlp writes no sequence, image_transformer_ti does"),
        ("", "mae:numbers", {}, "is a sequence of classes"),
        ("sequence", "mlp:digits", {}, "the kind sequence does not suit mlp"),
    ],
)
def test_what_does_not_suit_sequences_is_one_line(
    build_numbers, data_dir, extra, name, overrides, message
):
    from cv_jax.errors import InputError

    folder = {"data.dir": data_dir} if name == "mlp:digits" else {}
    name = name or "image_transformer:numbers"
    with pytest.raises(InputError, match=message) as caught:
        build_numbers(extra, name, **overrides, **folder)
    assert "\n" not in str(caught.value)
