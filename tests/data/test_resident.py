"""A split on the devices gives the batches that the host's loader gives."""

import copy

import jax
import numpy as np
import pytest

from cv_jax import augment, experiment, sharding
from cv_jax.data import pipeline, resident, sources
from cv_jax.errors import InputError

STEPS, SIZE = 65, 48  # more than two epochs


@pytest.fixture(scope="module")
def batches(data_dir):
    source = sources.open_source("digits", "train", data_dir)
    images = pipeline.prepare(source, augment.parse("resize(9)").fixed, "memory")
    rows = np.arange(SIZE)
    return pipeline.TrainBatches(images, (), seed=3, batch_size=SIZE, rows=rows, total_steps=STEPS)


@pytest.mark.parametrize(("devices", "start"), [(1, 0), (8, 0), (8, 29), (3, STEPS)])
def test_the_batches_are_the_loaders(batches, devices, start):
    mesh = sharding.make_mesh(devices)
    got = list(resident.iterate(mesh, batches, start))
    assert len(got) == STEPS - start
    for step, batch in enumerate(got, start):
        expected = batches[step]
        assert batch.keys() == expected.keys()
        for key, value in expected.items():
            assert batch[key].dtype == value.dtype
            assert batch[key].sharding.is_equivalent_to(sharding.over_batch(mesh), value.ndim)
            np.testing.assert_array_equal(batch[key], value)


def test_after_the_start_the_hosts_pixels_are_not_needed(batches):
    own = copy.copy(batches)
    stream = resident.iterate(sharding.make_mesh(2), own, 0)
    next(stream)
    own.images = None
    assert len(list(stream)) == STEPS - 1


def test_the_choice(batches, monkeypatch):
    images, crop = batches.images, augment.parse("random_crop(4)").host
    uncached = images._replace(cached=None)
    assert resident.chosen("device", images, ())
    assert not resident.chosen("memory", images, ())
    assert not resident.chosen("none", uncached, ())
    assert not resident.chosen("auto", images, ())  # a CPU's devices have no memory of their own
    with pytest.raises(InputError, match="cache=device: config.augment has host operations that"):
        resident.chosen("device", images, crop)

    class Device:
        def memory_stats(self):
            return {"bytes_limit": 5 * images.cached[0].nbytes, "bytes_in_use": self.used}

    device = Device()
    monkeypatch.setattr(jax, "local_devices", lambda: [device])
    for used, fits in ((0, True), (2 * images.cached[0].nbytes, False)):
        device.used = used
        assert resident.chosen("auto", images, ()) == fits
        assert not resident.chosen("auto", images, crop)
        assert not resident.chosen("auto", uncached, ())


def test_a_run_says_where_its_images_are(load_config):
    for cache, said in (
        ("device", "1,438 images of 32x32x1, 1.4 MiB, on the devices"),
        ("memory", "1,438 images of 32x32x1, 1.4 MiB, in host memory"),
        ("none", "1,438 images, read and decoded as they are needed"),
    ):
        parts = experiment.build(load_config("mlp", {"data.cache": cache}))
        assert parts.train_images.place(parts.resident) == said
