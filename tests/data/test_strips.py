"""Tests of the strips of digits, and of sequences as labels in sources and batches."""

import dataclasses

import numpy as np
import pytest

from cv_jax.data import decode, digits, pipeline, sources, strips, subsets
from cv_jax.data.source import Source
from cv_jax.errors import InputError


@pytest.mark.parametrize(("split", "fewest", "most"), [("test", 2, 5), ("longer", 6, 7)])
def test_strips_show_their_source_digits(split, fewest, most):
    _, labels = digits.load_arrays()
    test = digits.is_test(labels)
    drawn = [strips.example(split, i) for i in range(60)]
    for strip in drawn:
        assert fewest <= len(strip.digits) <= most
        assert strip.digits == tuple(labels[list(strip.sources)])
        assert test[list(strip.sources)].all()
        # From left to right, with free columns between.
        ends = np.array(strip.spans)
        assert (ends[1:, 0] > ends[:-1, 1]).all()
        assert ends.min() >= 0
        assert ends.max() <= strip.image.shape[1] == 112
        # The brightest tenth of the pixels is where the digits are.
        columns = np.arange(112)
        inside = ((columns >= ends[:, :1]) & (columns < ends[:, 1:])).any(axis=0)
        assert np.sort(strip.image[:, inside].ravel())[-40:].mean() > 140
    lengths = {len(strip.digits) for strip in drawn}
    assert lengths == set(range(fewest, most + 1))


def test_training_and_test_strips_have_no_source_digit_in_common():
    used = {
        split: {i for n in range(200) for i in strips.example(split, n).sources}
        for split in strips.COUNTS
    }
    assert used["train"].isdisjoint(used["test"] | used["longer"])
    assert len(used["train"]) > 300


def test_strips_are_random_and_repeatable():
    first, again, other = (strips.example("train", i) for i in (3, 3, 4))
    np.testing.assert_array_equal(first.image, again.image)
    assert first.sources == again.sources != other.sources


@pytest.fixture(scope="module")
def longer(numbers_dir):
    return sources.open_source("numbers", "longer", numbers_dir, target="sequence")


def test_the_dataset_has_the_strips_and_their_padded_sequences(longer):
    assert len(longer) == 12
    assert longer.length == 7
    assert longer.num_classes == 10
    assert longer.classes == tuple("0123456789")
    for i in (0, 7, 11):
        image, label = longer.example(i)
        strip = strips.example("longer", i)
        np.testing.assert_array_equal(image[..., 0], strip.image)
        expected = np.full(7, -1)
        expected[: len(strip.digits)] = strip.digits
        np.testing.assert_array_equal(label, expected)


class Sequences:
    """Black images whose sequence has as many classes as the index says."""

    def __init__(self, lengths):
        self.lengths = lengths

    def __len__(self):
        return len(self.lengths)

    def __getitem__(self, index):
        return np.zeros((2, 3, 1), np.uint8), tuple(range(self.lengths[index]))

    def place(self, index):
        return f"sequence {index}"


def _source(lengths, num_classes=5):
    fingerprint = {"name": "made"}
    return Source("made", Sequences(lengths), num_classes, 1, fingerprint, length=max(lengths))


def test_batches_carry_padded_sequences_with_and_without_a_cache():
    source = _source([2, 0, 3, 1, 3])
    expected = np.array(
        [[0, 1, -1], [-1, -1, -1], [0, 1, 2], [0, -1, -1], [0, 1, 2], [0, 1, -1]], np.int32
    )
    for cache in ("none", "memory"):
        images = pipeline.prepare(source, (), cache)
        batches = pipeline.EvalBatches(images, batch_size=6, rows=np.arange(6))
        np.testing.assert_array_equal(batches[0]["label"], expected)
        train = pipeline.TrainBatches(
            images, (), seed=0, batch_size=4, rows=np.arange(4), total_steps=2
        )
        batch = train[1]
        assert batch["label"].dtype == np.int32
        np.testing.assert_array_equal(batch["label"], expected[train.indices(1)])


def test_a_class_out_of_range_is_named():
    with pytest.raises(decode.BrokenExample, match=r"made, sequence 1: label 2 is not in 0…1"):
        _source([2, 3], num_classes=2).read(1)


def test_subsets_of_sequences():
    source = _source([1] * 8)
    part = subsets.balanced(source, 0.5, None, 0)
    assert len(part) == 4
    assert len(set(part.records.indices)) == 4
    with pytest.raises(InputError, match="a label of made is a sequence of classes"):
        subsets.balanced(source, None, 2, 0)
    whole, reasons = subsets.without_broken(dataclasses.replace(source, num_classes=1), 2)
    assert (len(whole), reasons) == (8, [])


@pytest.mark.parametrize(
    ("name", "target", "message"),
    [
        ("numbers", None, "learn a sequence with config.data.target=sequence"),
        ("numbers", "sequenc", "'sequenc' is not a class label or a sequence .* did you mean"),
        ("folder:x", "sequence", "folder:x has one label and no other features"),
    ],
)
def test_a_target_that_is_not_there_is_one_line(name, target, message, numbers_dir):
    with pytest.raises(InputError, match=message):
        sources.open_source(name, "test", numbers_dir, target=target)
