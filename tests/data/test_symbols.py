"""Datasets of sequences of letters: targets, held-out sequences, and their batches."""

import dataclasses
import itertools

import numpy as np
import pytest
import tensorflow_datasets as tfds

from cv_jax.data import decode, pipeline, sources, subsets, symbols
from cv_jax.errors import InputError

TRUTH = {"copy": list, "sort": sorted, "reverse": lambda source: list(reversed(source))}
NAMES = tuple(TRUTH)
RECORDED = {
    "train": ["mkfgabadq", "skmtomkl", "fqnahrlapo", "dbrakbfji"],
    "test": ["bofksfodgt", "qttrdajgr", "irrg", "tbecfgbrf"],
}


def text(row, source):
    return "".join(source.classes[k] for k in row if k >= 0)


@pytest.mark.parametrize("name", NAMES)
def test_targets_are_those_of_python(name, symbols_dir):
    for split, count in (("train", 96), ("test", 24)):
        source = sources.open_source(name, split, symbols_dir)
        assert (len(source), source.num_classes, source.channels) == (count, 20, 0)
        assert source.classes == tuple("abcdefghijklmnopqrst")
        assert source.kind == "sequence"
        assert source.length == source.input_length == 5
        lengths = set()
        for i in range(count):
            sequence, target = source.example(i)
            assert sequence.dtype == target.dtype == np.int32
            letters = text(sequence, source)
            lengths.add(len(letters))
            assert list(text(target, source)) == TRUTH[name](letters)
            # Padding is at the end only.
            assert (sequence[len(letters) :] == -1).all()
            assert (target[len(letters) :] == -1).all()
        assert len(lengths) > 3


def test_no_source_or_target_of_the_test_split_occurs_in_training():
    """By brute force, over all examples of the whole datasets and all orders of short sources."""
    drawn = {split: list(symbols.sources(split)) for split in symbols.COUNTS}
    for split, count in symbols.COUNTS.items():
        assert len(drawn[split]) == len(set(drawn[split])) == count
    for target in symbols.TARGETS.values():
        train = set(drawn["train"]) | {target(s) for s in drawn["train"]}
        test = set(drawn["test"]) | {target(s) for s in drawn["test"]}
        assert train.isdisjoint(test)
    # No order of the letters of a test source is in the training split.
    train = set(drawn["train"])
    short = [s for s in drawn["test"] if len(s) <= 5]
    assert len(short) > 100
    for source in short:
        assert train.isdisjoint(itertools.permutations(source))


def test_the_split_does_not_depend_on_what_is_drawn():
    """Guaranteed for every sequence: each belongs to one split, in any order of its letters."""
    shares = []
    for source in itertools.combinations_with_replacement(range(20), 3):
        found = {symbols.is_test(order) for order in itertools.permutations(source)}
        assert len(found) == 1
        shares += found
    assert 0.07 < np.mean(shares) < 0.13


def test_sources_have_every_length_and_letter_equally_often():
    drawn = list(symbols.sources("train"))
    lengths = np.bincount([len(s) for s in drawn], minlength=11)
    assert (lengths[:3] == 0).all()
    assert lengths[3:].min() > 0.8 * lengths[3:].max()
    letters = np.bincount(np.concatenate(drawn), minlength=20)
    assert len(letters) == 20
    assert letters.min() > 0.9 * letters.max()


def test_sources_are_always_the_same():
    """Recorded letters: another process, computer or version draws the same."""
    for split, expected in RECORDED.items():
        first = itertools.islice(symbols.sources(split), len(expected))
        assert ["".join(symbols.SYMBOLS[k] for k in source) for source in first] == expected


def test_a_dataset_is_a_tfds_dataset(symbols_dir):
    builder = tfds.builder("reverse", data_dir=symbols_dir)
    assert builder.info.supervised_keys == ("source", "target")
    example = builder.as_data_source("test")[0]
    np.testing.assert_array_equal(example["target"], example["source"][::-1])


def test_batches_do_not_depend_on_cache_rows_or_start(symbols_dir):
    source = sources.open_source("reverse", "train", symbols_dir)
    options = dict(seed=3, batch_size=8, total_steps=30)
    whole = pipeline.TrainBatches(
        pipeline.prepare(source, (), "memory"), (), rows=np.arange(8), **options
    )
    read = pipeline.TrainBatches(pipeline.Images(source, ()), (), rows=np.arange(4, 8), **options)
    for step in (0, 11, 12, 29):
        assert whole[step].keys() == read[step].keys() == {"sequence", "label"}
        for name, x in whole[step].items():
            assert x.dtype == np.int32
            np.testing.assert_array_equal(x[4:], read[step][name])
    loaded = pipeline.iterate(read, 28, workers=0, threads=2, prefetch=2)
    for step, batch in zip((28, 29), loaded, strict=True):
        np.testing.assert_array_equal(batch["sequence"], whole[step]["sequence"][4:])
    # Every example once in an epoch of twelve batches.
    rows = np.concatenate([whole[step]["sequence"] for step in range(12)])
    assert len(np.unique(rows, axis=0)) == 96
    assert whole.images.place() == "96 sequences of 5, 0.0 MiB, in host memory"
    assert read.images.place() == "96 sequences, read and decoded on demand"


def test_evaluation_has_every_sequence_once_in_order(symbols_dir):
    source = sources.open_source("sort", "test", symbols_dir)
    batches = pipeline.EvalBatches(pipeline.Images(source, ()), batch_size=10, rows=np.arange(10))
    assert len(batches) == 3
    rows = np.concatenate([batches[i]["sequence"] for i in range(3)])
    for i in range(24):
        np.testing.assert_array_equal(rows[i], source.example(i)[0])
    assert batches[2]["position"].tolist() == list(range(20, 30))


def test_parts_of_a_split(symbols_dir):
    source = sources.open_source("copy", "train", symbols_dir)
    part = subsets.balanced(source, 0.25, None, 0)
    assert len(part) == 24
    whole, reasons = subsets.without_broken(source, 2)
    assert (len(whole), reasons) == (96, [])
    with pytest.raises(InputError, match="a label of copy is a sequence of classes"):
        subsets.balanced(source, None, 2, 0)
    few = dataclasses.replace(source, num_classes=2)
    with pytest.raises(decode.BrokenExample, match="record 0 of .*: label [0-9]+ is not in 0…1"):
        few.read(0)


def test_another_target_is_one_of_the_features(symbols_dir):
    source = sources.open_source("reverse", "test", symbols_dir, target="source")
    np.testing.assert_array_equal(*source.example(0))
    with pytest.raises(InputError, match="'sourse' is not a class label or a .* did you mean"):
        sources.open_source("reverse", "test", symbols_dir, target="sourse")
