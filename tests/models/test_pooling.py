"""Max pooling is the library's, and its gradient has the same bits."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

from cv_jax.models.pooling import max_pool

# Size, stride and padding of VGG, AlexNet, ResNet, and others.
VGG, ALEXNET, RESNET = (2, 2, 0), (3, 2, 0), (3, 2, 1)
WINDOWS = [VGG, ALEXNET, RESNET, (3, 1, 1), (2, 3, 0), (5, 2, 2), (3, 3, 0), (1, 2, 0)]


def library(x, size, stride, padding):
    return nn.max_pool(x, (size, size), (stride, stride), ((padding, padding),) * 2)


def pulled_back(pool, window, x, gradient):
    """The maxima, and the gradient of the image."""
    maxima, back = jax.vjp(lambda x: pool(x, *window), x)
    return maxima, back(gradient)[0]


def case(window, dtype, shape=(2, 7, 9, 3), special=()):
    """An image with many equal values, and a gradient of its maxima."""
    draw = np.random.default_rng(sum(window) + len(special))
    x = np.maximum(np.round(2 * draw.standard_normal(shape)) / 2, 0)
    x[draw.random(shape) < 0.3] = -0.0
    for value in special:
        x[draw.random(shape) < 0.2] = value
    x = jnp.asarray(x, dtype)
    maxima = jax.eval_shape(lambda x: library(x, *window), x)
    return x, jnp.asarray(draw.standard_normal(maxima.shape), dtype)


def assert_equal(ours, theirs):
    """Equal maxima, where 0 equals −0, and gradients with the same bits."""
    (y, dx), (y_, dx_) = ours, theirs
    assert (y.dtype, dx.dtype) == (y_.dtype, dx_.dtype)
    np.testing.assert_array_equal(y, y_)
    assert np.asarray(dx).tobytes() == np.asarray(dx_).tobytes()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("window", WINDOWS, ids=str)
def test_values_and_gradients_are_those_of_the_library(window, dtype):
    """Ties everywhere, an odd height, and windows that leave out the last rows."""
    x, gradient = case(window, dtype)
    assert len(np.unique(x)) < 12
    both = jax.jit(lambda *a: [pulled_back(pool, window, *a) for pool in (max_pool, library)])
    assert_equal(*both(x, gradient))


@pytest.mark.parametrize("window", [VGG, ALEXNET, RESNET], ids=str)
def test_a_larger_image_with_all_optimisations(window, full_optimisation):
    x, gradient = case(window, "float32", (3, 20, 17, 32))
    both = jax.jit(lambda *a: [pulled_back(pool, window, *a) for pool in (max_pool, library)])
    assert_equal(*both(x, gradient))


@pytest.mark.parametrize("special", [(-np.inf,), (np.nan,), (-np.inf, np.nan)], ids=str)
def test_infinite_values_and_nan(special):
    x, gradient = case(RESNET, "float32", special=special)
    both = jax.jit(lambda *a: [pulled_back(pool, RESNET, *a) for pool in (max_pool, library)])
    assert_equal(*both(x, gradient))


def test_the_gradient_is_that_of_a_loop():
    """The first maximum of a window, row by row, receives the window's gradient."""
    x, gradient = case(RESNET, "float32")
    expected = np.zeros((2, 9, 11, 3))
    wide = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-np.inf)
    for b, i, j, c in np.ndindex(gradient.shape):
        window = wide[b, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3, c]
        row, column = np.unravel_index(window.argmax(), (3, 3))
        expected[b, 2 * i + row, 2 * j + column, c] += gradient[b, i, j, c]
    _, got = pulled_back(max_pool, RESNET, x, gradient)
    np.testing.assert_allclose(got, expected[:, 1:-1, 1:-1], atol=1e-6)


def test_under_vmap_and_in_the_per_device_view():
    """Three images more on an axis in front; and two images on each of two devices."""
    x, gradient = case(RESNET, "float32", (4, 8, 8, 3))
    ours = pulled_back(max_pool, RESNET, x, gradient)
    stack = jax.vmap(partial(pulled_back, max_pool, RESNET))
    assert_equal([y[1] for y in stack(jnp.stack([0 * x, x]), jnp.stack([gradient] * 2))], ours)
    mesh = Mesh(np.array(jax.devices()[:2]), ("data",))
    spec = PartitionSpec("data")
    split = jax.shard_map(
        partial(pulled_back, max_pool, RESNET), mesh=mesh, in_specs=(spec, spec), out_specs=spec
    )
    assert_equal(jax.jit(split)(x, gradient), ours)
