"""Small networks with random weights for the tests of analyses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from cv_jax import models

SMALL_VIT = dict(image_size=(16, 24), patch_size=8, width=12, depth=2, num_heads=2, num_classes=5)
SMALL_SWIN = dict(
    width=8, depths=(2, 2), num_heads=(2, 4), window_size=2, patch_size=4, num_classes=5
)
SMALL_RESNET = dict(stage_sizes=(1, 1), widths=(4, 8), stem_width=4, num_classes=5)


def with_weights(model, *inputs, seed=0, scale=1.0):
    """Return random variables of a model; no array is constant."""
    rngs = {name: jax.random.key(0) for name in ("params", "dropout", "mask")}
    shapes = jax.eval_shape(lambda: model.init(rngs, *inputs))
    rng = np.random.default_rng(seed)
    flat = {}
    for path, leaf in traverse_util.flatten_dict(shapes).items():
        noise = rng.standard_normal(leaf.shape).astype(np.float32)
        if path[-1] == "scale" or path[-1] == "var":
            flat[path] = 1 + 0.1 * np.abs(noise)
        elif leaf.ndim > 1:
            flat[path] = scale * noise / np.sqrt(np.prod(leaf.shape[:-1]))
        else:
            flat[path] = 0.1 * noise
    return traverse_util.unflatten_dict(flat)


@pytest.fixture(scope="session")
def vit():
    """Return (model, variables, images) of a ViT with a class token."""
    images = jax.random.normal(jax.random.key(1), (2, 16, 24, 3))
    model = models.create("vit_ti16", **SMALL_VIT)
    return model, with_weights(model, images, scale=2.0), images


@pytest.fixture(scope="session")
def swin():
    """Return (model, variables, images) of a Swin with shifted windows and an odd map."""
    images = jax.random.normal(jax.random.key(1), (2, 24, 32, 3))
    model = models.create("swin_t", **SMALL_SWIN)
    return model, with_weights(model, images, scale=2.0), images


@pytest.fixture(scope="session")
def resnet():
    """Return (model, variables, images) of a residual network."""
    images = jax.random.normal(jax.random.key(1), (2, 32, 32, 3))
    model = models.create("resnet18", **SMALL_RESNET)
    return model, with_weights(model, images), images


@pytest.fixture
def classes():
    return jnp.array([1, 3])
