"""Operations that depend on the epoch: the draw of an example is the same in every epoch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from cv_jax import augment
from cv_jax.augment.batch import augment_batch, to_pixels
from cv_jax.data import pipeline
from cv_jax.data.source import Source
from cv_jax.errors import InputError
from cv_jax.training import experiment

COUNT = 10


class Numbered:
    """Image i has the value i in its first column, and is black elsewhere."""

    def __len__(self):
        return COUNT

    def __getitem__(self, index):
        image = np.zeros((2, 3, 1), np.uint8)
        image[:, 0] = index + 1
        return image, 0


def batches(string, size=4, seed=0):
    source = Source("numbered", Numbered(), 1, 1, {})
    parsed = augment.parse(string)
    return parsed, pipeline.TrainBatches(
        pipeline.Images(source, ()),
        parsed.host,
        seed=seed,
        batch_size=size,
        rows=np.arange(size),
        total_steps=30,
        stream=parsed.stream,
        places=bool(parsed.epoch),
    )


def seen(load_config, string, size=4, seed=0):
    """Return {(example, epoch, copy): mirrored}."""
    config = load_config("linear", {"seed": seed, "data.mean": "0", "data.std": "1"})
    parsed, loaded = batches(string, size, seed)
    found = {}
    for step in range(len(loaded)):
        batch = loaded[step]
        images = augment_batch(config, parsed, 1, jnp.int32(step), batch)["image"]
        images = np.round(to_pixels(config, np.asarray(images))).reshape(size, -1, 2, 3)
        for example, epoch, views in zip(batch["example"], batch["epoch"], images, strict=True):
            for image in views:
                assert image.max() == example + 1
                key = int(example), int(epoch)
                copies = sum(other[:2] == key for other in found)
                found[(*key, copies)] = image[0, 0] == 0
    return found


def test_every_second_epoch_is_mirrored(load_config):
    """Batches of four of ten examples: an epoch ends within a batch."""
    found = seen(load_config, "alternating_flip")
    assert len(found) == 120
    for (example, epoch, _), mirrored in found.items():
        assert mirrored == (found[example, 0, 0] ^ (epoch % 2 == 1))
    # The draw depends on the seed and the example, not on the batch.
    first = [found[i, 0, 0] for i in range(COUNT)]
    assert 0 < sum(first) < COUNT
    other_batches = seen(load_config, "alternating_flip", size=5)
    assert first == [other_batches[i, 0, 0] for i in range(COUNT)]
    other_seed = seen(load_config, "alternating_flip", seed=1)
    assert first != [other_seed[i, 0, 0] for i in range(COUNT)]


def test_repeats_belong_to_one_epoch_and_views_have_their_own_draws(load_config):
    found = seen(load_config, "repeat(2)|alternating_flip")
    assert {copy for *_, copy in found} == {0, 1}
    for (example, epoch, _), mirrored in found.items():
        assert mirrored == found[example, epoch, 0]
    found = seen(load_config, "views(2)|alternating_flip")
    first = [[found[i, 0, view] for i in range(COUNT)] for view in (0, 1)]
    assert first[0] != first[1]
    for (example, epoch, view), mirrored in found.items():
        assert mirrored == (found[example, 0, view] ^ (epoch % 2 == 1))


def test_half_of_the_examples_start_mirrored():
    operation = augment.parse("alternating_flip").epoch
    keys = jax.random.split(jax.random.key(0), 2000)
    images = jnp.zeros((2000, 1, 2, 1)).at[:, :, 0].set(1.0)
    for epoch in (0, 1):
        epochs = jnp.full(2000, epoch)
        got = np.asarray(augment.apply_epoch(operation, keys, epochs, images))[:, 0, 0, 0]
        assert scipy.stats.binomtest(int((got == 0).sum()), 2000, 0.5).pvalue > 1e-3


def test_batches_without_such_operations_have_no_places():
    _, loaded = batches("flip")
    assert loaded[0].keys() == {"image", "label"}


def test_it_stands_before_other_operations_and_not_in_an_evaluation(load_config):
    with pytest.raises(InputError, match="alternating_flip is an epoch operation and must stand"):
        augment.parse("flip|alternating_flip")
    with pytest.raises(InputError, match="only deterministic operations are allowed"):
        experiment.build(load_config("linear", {"eval_preprocess": "alternating_flip"}))


@pytest.mark.parametrize("cache", ["device", "none"])
def test_two_steps(load_config, cache):
    fields = {"augment": "alternating_flip", "data.cache": cache, "total_steps": 2}
    parts = experiment.build(load_config("linear", {**fields, "mesh.devices": 2}))
    state, step = parts.init()(), parts.train_step()
    for batch in parts.train_batches(0):
        state, metrics = step(state, batch)
    assert np.isfinite(metrics["loss"])
