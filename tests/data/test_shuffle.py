"""The order of the examples is that of Grain, and a permutation in each epoch."""

import grain
import numpy as np
import pytest

from cv_jax.augment.stream import Stream
from cv_jax.data import pipeline
from cv_jax.data.shuffle import SMALLEST_SPLIT, shuffled
from cv_jax.data.source import Source


@pytest.mark.parametrize(
    "size", [1, 1438, 2**14, 2**16 - 1, 2**16, 2**16 + 1, 2**16 + 2, 300_000, 1_281_167]
)
@pytest.mark.parametrize("seed", [0, 1, 2**32 - 1])
def test_the_order_is_that_of_grain(size, seed):
    order = grain.MapDataset.range(size).seed(seed).shuffle().repeat()
    rng = np.random.default_rng(size)
    ends = [0, size - 1, size, 2 * size - 1, 2 * size]
    positions = np.array([*ends, *rng.integers(0, 5 * size, 300), *(10**6 * size + np.arange(5))])
    expected = [order[int(position)] for position in positions]
    np.testing.assert_array_equal(shuffled(positions, size, seed), expected)


@pytest.mark.parametrize("size", [1, 1438, 70_000])
def test_an_epoch_has_every_example_once(size):
    for epoch in (0, 3):
        found = shuffled(epoch * size + np.arange(size), size, 5)
        np.testing.assert_array_equal(np.sort(found), np.arange(size))


@pytest.mark.parametrize("size", [SMALLEST_SPLIT - 1, SMALLEST_SPLIT])
def test_batches_have_the_order_of_grain(size):
    """Splits that are computed one position at a time, and all at once; two copies of each."""
    images = pipeline.Images(Source("numbers", range(size), 1, 1, {}), ())
    options = dict(seed=3, batch_size=9000, rows=np.arange(9000), total_steps=9)
    batches = pipeline.TrainBatches(images, (), **options, stream=Stream(repeats=2))
    order = grain.MapDataset.range(size).seed(3).shuffle().repeat()
    found = batches.indices(5)
    assert found == [order[position // 2] for position in range(45_000, 54_000)]
    assert {type(index) for index in found} == {int}
