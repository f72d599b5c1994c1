"""Batches: independent of the layout; every test example once."""

import numpy as np
import pytest

from cv_jax import augment
from cv_jax.data import pipeline, sources
from cv_jax.data.source import Source
from cv_jax.errors import InputError

STEPS, SIZE = 65, 48  # more than two epochs


@pytest.fixture(scope="module")
def source(data_dir):
    return sources.open_source("digits", "train", data_dir)


def make(source, rows=None, seed=1, cache="none", string="resize(12)|random_crop(10)"):
    parsed = augment.parse(string)
    return pipeline.TrainBatches(
        pipeline.prepare(source, parsed.fixed, cache),
        parsed.host,
        seed=seed,
        batch_size=SIZE,
        rows=np.arange(SIZE) if rows is None else rows,
        total_steps=STEPS,
    )


def collect(batches, start=0, workers=0, threads=1, prefetch=2):
    return list(
        pipeline.iterate(batches, start, workers=workers, threads=threads, prefetch=prefetch)
    )


def assert_equal(got, expected):
    assert len(got) == len(expected)
    for a, b in zip(got, expected, strict=True):
        assert a.keys() == b.keys()
        for key in a:
            assert a[key].dtype == b[key].dtype
            np.testing.assert_array_equal(a[key], b[key])


@pytest.fixture(scope="module")
def stream(source):
    """All batches of the run, by random access."""
    batches = make(source)
    return [batches[step] for step in range(STEPS)]


@pytest.mark.parametrize("workers", [0, 2, 3])
def test_workers_and_start_steps_change_nothing(source, stream, workers):
    for start in (0, 37) if not workers else (STEPS - 7,):
        got = collect(make(source), start, workers, threads=1 + start % 3)
        assert_equal(got, stream[start:])


def test_the_cache_changes_nothing(source, stream):
    assert_equal(collect(make(source, cache="memory"), threads=4), stream)
    fixed = "resize(12)"
    cached, read = (make(source, cache=c, string=fixed) for c in ("memory", "none"))
    assert_equal([cached[9]], [read[9]])


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_rows_of_all_processes_form_the_global_batch(source, stream, processes):
    slices = np.split(np.arange(SIZE), processes)
    parts = [make(source, rows) for rows in slices]
    for step in (0, 17, STEPS - 1):
        got = [part[step] for part in parts]
        whole = {key: np.concatenate([part[key] for part in got]) for key in got[0]}
        assert_equal([whole], [stream[step]])


def test_each_epoch_is_a_different_permutation(source):
    order = make(source).order
    size = len(source)
    first = [order[i] for i in range(size)]
    second = [order[i] for i in range(size, 2 * size)]
    assert sorted(first) == sorted(second) == list(range(size))
    assert first != second
    assert first != list(range(size))


def test_the_seed_determines_order_and_crops(source, stream):
    other = make(source, seed=2)[0]
    assert (other["label"] != stream[0]["label"]).any()
    again = make(source, seed=1)[0]
    assert_equal([again], stream[:1])


def test_random_host_operations_differ_between_epochs(source):
    batches = make(source)
    crops = {}
    for position in range(3 * len(source)):
        index = batches.order[position]
        if index == 11:
            crops[position] = batches._example(position, index)[0].tobytes()
    assert len(crops) == 3
    assert len(set(crops.values())) > 1


@pytest.mark.parametrize("batch_size", [1, 100, 359, 400])
def test_evaluation_sees_every_example_once_and_in_order(data_dir, batch_size):
    source = sources.open_source("digits", "test", data_dir)
    images = pipeline.prepare(source, (), "memory")
    batches = pipeline.EvalBatches(images, batch_size=batch_size, rows=np.arange(batch_size))
    got = collect(batches)
    assert all(len(batch["image"]) == batch_size for batch in got)
    position = np.concatenate([batch["position"] for batch in got])
    mask = position < 359
    np.testing.assert_array_equal(position, np.arange(len(position)))
    pixels = np.concatenate([batch["image"] for batch in got])[mask]
    labels = np.concatenate([batch["label"] for batch in got])[mask]
    np.testing.assert_array_equal(pixels, images.cached[0])
    np.testing.assert_array_equal(labels, images.cached[1])


class _Ragged(Source):
    def read(self, index):
        return np.zeros((8, 8 + index % 2, 1), np.uint8), 0


def test_images_of_several_sizes_cannot_be_cached(source):
    ragged = _Ragged(**vars(source))
    assert pipeline.prepare(ragged, (), "auto").cached is None
    with pytest.raises(InputError, match="images of one size"):
        pipeline.prepare(ragged, (), "memory")


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("views", [None, "flips"])
def test_images_of_several_sizes_in_one_batch_are_a_mistake(source, workers, views):
    ragged = _Ragged(**vars(source))
    train = make(ragged, string="mirror")
    test = augment.parse(views).test if views else ()
    evaluation = pipeline.EvalBatches(
        pipeline.Images(ragged, ()), batch_size=4, rows=np.arange(4), views=test
    )
    for batches, field in ((train, "config.augment"), (evaluation, "preprocessing of an evalua")):
        with pytest.raises(InputError, match=f"{field}.*: images of .* in one batch; add an op"):
            collect(batches, workers=workers)
