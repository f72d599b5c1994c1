"""Batches of a split in device memory equal those of the host's loader."""

import copy

import jax
import numpy as np
import pytest

from cv_jax import augment
from cv_jax.data import pipeline, resident, sources
from cv_jax.devices import mesh as meshes
from cv_jax.errors import InputError
from cv_jax.training import experiment

STEPS, SIZE = 65, 48  # more than two epochs


@pytest.fixture(scope="module")
def batches(data_dir):
    source = sources.open_source("digits", "train", data_dir)
    images = pipeline.prepare(source, augment.parse("resize(9)").fixed, "memory")
    rows = np.arange(SIZE)
    return pipeline.TrainBatches(images, (), seed=3, batch_size=SIZE, rows=rows, total_steps=STEPS)


@pytest.mark.parametrize(
    ("devices", "start", "places"), [(1, 0, False), (8, 0, True), (8, 29, False), (3, STEPS, True)]
)
def test_batches_match_the_loader(batches, devices, start, places):
    mesh, batches = meshes.make_mesh(devices), copy.copy(batches)
    batches.places = places
    got = list(resident.iterate(mesh, batches, start))
    assert len(got) == STEPS - start
    for step, batch in enumerate(got, start):
        expected = batches[step]
        assert batch.keys() == expected.keys()
        for key, value in expected.items():
            assert batch[key].dtype == value.dtype
            assert batch[key].sharding.is_equivalent_to(meshes.over_batch(mesh), value.ndim)
            np.testing.assert_array_equal(batch[key], value)


def test_host_images_are_not_needed_after_the_start(batches):
    own = copy.copy(batches)
    stream = resident.iterate(meshes.make_mesh(2), own, 0)
    next(stream)
    own.images = None
    assert len(list(stream)) == STEPS - 1


def test_chosen(batches, monkeypatch):
    images, crop = batches.images, augment.parse("random_crop(4)").host
    uncached = images._replace(cached=None)
    assert resident.chosen("device", images, ())
    assert not resident.chosen("memory", images, ())
    assert not resident.chosen("none", uncached, ())
    assert not resident.chosen("auto", images, ())  # CPU devices report no memory
    with pytest.raises(InputError, match="cache=device: config.augment has random host operations"):
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


def test_the_log_names_the_storage_of_images(load_config):
    for cache, message in (
        ("device", "1,438 images of 32x32x1, 1.4 MiB, in device memory"),
        ("memory", "1,438 images of 32x32x1, 1.4 MiB, in host memory"),
        ("none", "1,438 images, read and decoded on demand"),
    ):
        parts = experiment.build(load_config("mlp", {"data.cache": cache}))
        assert parts.train_images.place(parts.resident) == message
