"""One key gives the same pixels under jit, under vmap and on any number of devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from slow import slow_except

from cv_jax import augment
from cv_jax.augment.batch import augment_batch
from cv_jax.devices import mesh as meshes
from cv_jax.random_streams import stream_key

RECIPES = (
    "random_resized_crop(0.3, method='bicubic')|colour_jitter(0.4, 0.4, 0.4, 0.1)|three_augment"
    "|rotate(20, probability=0.5)|erase(0.5, 'channel')|cutout(4)|mixup(0.8, 'example')",
    "flip|randaugment(2, 9, 0.5)|erase(0.5)|mixup_or_cutmix",
)


@pytest.mark.parametrize("string", slow_except(RECIPES, RECIPES[0]))
def test_pixels_are_the_same_bit_for_bit(load_config, string):
    overrides = {"image_size": 16, "data.mean": "0.4,0.5,0.6", "data.std": "0.2,0.3,0.25"}
    config, augmentation = load_config("vit_ti16", overrides), augment.parse(string)
    draw = np.random.default_rng(0)
    batch = {
        "image": draw.integers(0, 256, (16, 16, 16, 3), np.uint8),
        "label": draw.integers(0, 10, 16).astype(np.int32),
    }

    @jax.jit
    def run(batch):
        return augment_batch(config, augmentation, 10, jnp.int32(5), batch)

    one, eight = (jax.device_get(run(meshes.to_global(meshes.make_mesh(n), batch))) for n in (1, 8))
    np.testing.assert_array_equal(one["image"], eight["image"])
    np.testing.assert_array_equal(one["label"], eight["label"])

    # A single image: a different program without vmap.
    key = stream_key(config.seed, "augment", 5)
    keys = jnp.stack([jax.random.fold_in(key, position) for position in range(16)])
    images = jnp.asarray(batch["image"], jnp.float32)
    together = jax.jit(lambda: augment.apply_images(augmentation.image, keys, images))()

    @jax.jit
    def alone(key, image):
        for i, operation in enumerate(augmentation.image):
            image = operation(jax.random.fold_in(key, i), image)
        return image

    for i in (0, 7):
        np.testing.assert_array_equal(alone(keys[i], images[i]), together[i])
