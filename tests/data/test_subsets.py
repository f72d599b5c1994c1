"""Subsets: balanced, seeded, nested; and splits without broken examples."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cv_jax.data import sources, subsets
from cv_jax.data.source import Source
from cv_jax.errors import InputError


class Labelled:
    """Records with given labels and dummy images; indices in `broken` are not decodable."""

    def __init__(self, labels, broken=()):
        self._labels, self.broken = np.asarray(labels), set(broken)

    def __len__(self):
        return len(self._labels)

    def __getitem__(self, index):
        pixels = np.full((2, 2, 3), index % 256, np.uint8)
        return b"" if index in self.broken else pixels, int(self._labels[index])

    def place(self, index):
        return f"record {index}"

    def labels(self, progress):
        return self._labels


def source_of(labels, broken=()):
    records = Labelled(labels, broken)
    return Source("made", records, int(max(labels)) + 1, 3, {"name": "made"})


labels_strategy = st.lists(st.integers(0, 5), min_size=1, max_size=80)


@given(labels_strategy, st.integers(0, 3))
@settings(max_examples=60, deadline=None)
def test_every_prefix_of_the_order_is_stratified(labels, seed):
    labels = np.array(labels)
    order = subsets.stratified(labels, seed)
    assert sorted(order) == list(range(len(labels)))
    for size in range(len(labels) + 1):
        got = np.bincount(labels[order[:size]], minlength=6)
        share = np.bincount(labels, minlength=6) * size / len(labels)
        # Each share is rounded, and the sum of the rounded shares may be off by one.
        assert np.abs(got - share).max() <= 1.5


def test_fractions_are_nested_and_depend_on_the_seed():
    source = source_of(np.arange(1000) % 7)
    parts = {f: subsets.balanced(source, f, None, 3).records.indices for f in (0.1, 0.5, 1.0)}
    assert [len(part) for part in parts.values()] == [100, 500, 1000]
    assert set(parts[0.1]) < set(parts[0.5])
    assert np.ptp(np.bincount(parts[0.1] % 7)) <= 1
    assert (np.diff(parts[0.5]) > 0).all()
    again = subsets.balanced(source, 0.1, None, 3).records.indices
    np.testing.assert_array_equal(again, parts[0.1])
    assert set(subsets.balanced(source, 0.1, None, 4).records.indices) != set(parts[0.1])


def test_per_class_takes_equal_counts():
    labels = np.repeat([0, 1, 2], [5, 50, 500])
    part = subsets.balanced(source_of(labels), None, 5, 0)
    np.testing.assert_array_equal(part.records.labels(None), np.repeat([0, 1, 2], 5))
    assert part.example(7)[1] == 1
    assert part.records.place(0) == "record 0"


@pytest.mark.parametrize(
    ("fraction", "per_class", "message"),
    [
        (0.5, 1, "both set"),
        (0.0, None, "must be above 0 and at most 1"),
        (1.5, None, "must be above 0 and at most 1"),
        (None, 0, "at least 1"),
        (None, 3, "class 1 of made has only 2 examples"),
    ],
)
def test_errors_of_balanced(fraction, per_class, message):
    with pytest.raises(InputError, match=message):
        subsets.balanced(source_of([0, 0, 0, 1, 1]), fraction, per_class, 0)


@pytest.mark.parametrize("threads", [1, 3])
def test_broken_examples_are_removed_and_reported(threads):
    source = source_of(np.arange(200) % 4, broken=[3, 150])
    sound, reasons = subsets.without_broken(source, threads)
    assert len(sound) == 198
    assert reasons == ["made, record 3: empty", "made, record 150: empty"]
    assert sound.records.place(3) == "record 4"
    assert sound.fingerprint == {"name": "made", "broken": [3, 150]}
    np.testing.assert_array_equal(np.bincount(sound.records.labels(None)), [50, 50, 49, 49])
    whole = source_of([0, 1])
    assert subsets.without_broken(whole, threads) == (whole, [])


def test_labels_of_a_tfds_dataset_match_its_examples(data_dir):
    source = sources.open_source("digits", "test[5:40]", data_dir)
    labels = source.records.labels(lambda loop: loop)
    assert labels.tolist() == [source.example(i)[1] for i in range(35)]


@pytest.mark.parametrize(
    ("split", "pieces"),
    [
        ("a", [("a", 0, 10)]),
        ("a[:25%]+b[-1:]", [("a", 0, 2), ("b", 3, 4)]),
        ("a[2:5]", [("a", 2, 5)]),
        ("a[:0%]", [("a", 0, 0)]),
    ],
)
def test_slices_follow_tfds_syntax(split, pieces):
    assert subsets.slices("made", split, {"a": 10, "b": 4}) == pieces
