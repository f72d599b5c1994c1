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

pytestmark = pytest.mark.usefixtures("full_optimisation")

RECIPES = (
    "random_resized_crop(0.3, method='bicubic')|colour_jitter(0.4, 0.4, 0.4, 0.1)|three_augment"
    "|rotate(20, probability=0.5)|erase(0.5, 'channel')|cutout(4)|mixup(0.8, 'example')",
    "flip|randaugment(2, 9, 0.5)|erase(0.5)|mixup_or_cutmix",
)


@pytest.fixture(scope="module")
def batch():
    draw = np.random.default_rng(0)
    return {
        "image": draw.integers(0, 256, (48, 16, 16, 3), np.uint8),
        "label": draw.integers(0, 10, 48).astype(np.int32),
    }


@pytest.fixture(scope="module")
def augmented(load_config, batch):
    """`augmented(string, devices)`: the augmented batch."""
    overrides = {"image_size": 16, "data.mean": "0.4,0.5,0.6", "data.std": "0.2,0.3,0.25"}
    config = load_config("vit_ti16", overrides)

    def run(string, devices):
        augmentation, mesh = augment.parse(string), meshes.make_mesh(devices)
        function = jax.jit(lambda b: augment_batch(config, augmentation, 10, jnp.int32(5), b))
        return jax.device_get(function(meshes.to_global(mesh, batch)))

    return run


@pytest.mark.parametrize("string", slow_except(RECIPES, RECIPES[0], long=True))
def test_pixels_are_the_same_bit_for_bit(load_config, batch, augmented, string):
    one, eight = augmented(string, 1), augmented(string, 8)
    np.testing.assert_array_equal(one["image"], eight["image"])
    np.testing.assert_array_equal(one["label"], eight["label"])

    # A single image: a different program without vmap.
    augmentation = augment.parse(string)
    key = stream_key(load_config("vit_ti16").seed, "augment", 5)
    keys = jnp.stack([jax.random.fold_in(key, position) for position in range(48)])
    images = jnp.asarray(batch["image"], jnp.float32)
    together = jax.jit(lambda: augment.apply_images(augmentation.image, keys, images))()

    @jax.jit
    def alone(key, image):
        for i, operation in enumerate(augmentation.image):
            image = operation(jax.random.fold_in(key, i), image)
        return image

    for i in (0, 7):
        np.testing.assert_array_equal(alone(keys[i], images[i]), together[i])


@pytest.mark.parametrize("operations", ["flip", "erase(0.5)"])
def test_blends_are_products_and_sums_of_rounded_numbers(batch, augmented, operations):
    """Equal to NumPy on all layouts; fused products and sums would have fewer roundings."""
    images, labels = augmented(operations, 1)["image"], batch["label"]
    found = [augmented(f"{operations}|mixup(0.3)", devices) for devices in (1, 8)]
    others = labels != labels[::-1]
    (share,) = np.unique(found[0]["label"][others, labels[others]])
    assert 0 < share < 1
    blend = images[::-1] + share * (images - images[::-1])
    for result in found:
        np.testing.assert_array_equal(result["image"], blend)
        np.testing.assert_array_equal(result["label"], found[0]["label"])


def test_blends_or_boxes_are_the_same_bit_for_bit(augmented):
    one, eight = (augmented("flip|mixup_or_cutmix", devices) for devices in (1, 8))
    np.testing.assert_array_equal(one["image"], eight["image"])
    np.testing.assert_array_equal(one["label"], eight["label"])
