"""Small networks with random weights for the tests of analyses."""

import jax
import jax.numpy as jnp
import pytest
from small_nets import SMALL_RESNET, SMALL_SWIN, SMALL_VIT, with_weights

from cv_jax import models


@pytest.fixture(autouse=True)
def compiled_fast(fast_compilation):
    """Every program of these tests runs once."""


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
