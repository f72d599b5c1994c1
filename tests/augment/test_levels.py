"""Arithmetic on grey levels compared with Pillow."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFilter
from pillow import operate, to_array, to_pillow

from cv_jax.augment import levels

SHAPES = ((12, 17, 3), (12, 17, 1))
# For each operation: argument from an integer 0…8191, tolerance against Pillow, function.
OPERATIONS = {
    "brightness": (lambda n: n / 4096, 0, levels.brightness),
    "contrast": (
        lambda n: n / 4096,
        0,
        lambda x, factor: levels.contrast(x, factor, levels.mean_grey(x)),
    ),
    "saturation": (lambda n: n / 4096, 0, levels.saturation),
    "sharpness": (lambda n: n / 4096, 0, levels.sharpness),
    "posterise": (lambda n: n % 9, 0, levels.posterise),
    "solarise": (lambda n: n % 257, 0, levels.solarise),
    "solarise_add": (lambda n: n % 129, 0, levels.solarise_add),
    "invert": (lambda n: 0, 0, lambda x, _: levels.invert(x)),
    "autocontrast": (lambda n: 0, 1, lambda x, _: levels.autocontrast(x, *levels.extremes(x))),
    "equalise": (
        lambda n: 0,
        0,
        lambda x, _: levels.look_up(x, levels.equalise_table(levels.histogram(x))),
    ),
}
JITTED = {name: jax.jit(function) for name, (_, _, function) in OPERATIONS.items()}


def draw(seed, shape):
    """Draw noise over a part of the range, a noisy ramp, or an image of few levels."""
    generator = np.random.default_rng(seed)
    low, high = np.sort(generator.integers(0, 257, 2))
    noise = generator.integers(low, max(high, low + 1), shape)
    ramp = np.arange(shape[0])[:, None, None] * generator.integers(0, 12) + noise // 16
    picture = (noise, ramp, noise // 64 * 64)[seed % 3]
    return np.clip(picture, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("name", OPERATIONS)
@settings(deadline=None, max_examples=30, derandomize=True)
@given(st.integers(0, 10**6), st.integers(0, 8191), st.sampled_from(SHAPES))
def test_operations_match_pillow(name, seed, number, shape):
    argument, tolerance, _ = OPERATIONS[name]
    image = draw(seed, shape)
    want = to_array(operate(to_pillow(image), name, argument(number), "bicubic", 0))
    got = JITTED[name](jnp.asarray(image, jnp.int32), jnp.asarray(argument(number)))
    np.testing.assert_allclose(got, want, atol=tolerance, rtol=0)


def test_autocontrast_differs_from_pillow_only_by_double_precision():
    ramp = np.arange(256, dtype=np.uint8)[:, None, None]
    run = jax.jit(lambda x: levels.autocontrast(x, *levels.extremes(x)))
    for low, high in ((0, 255), (3, 200), (17, 17), (100, 151), (1, 86)):
        image = np.clip(ramp, low, high)
        want = to_array(operate(to_pillow(image), "autocontrast", 0, "bicubic", 0))
        off = np.asarray(run(jnp.asarray(image, jnp.int32))) - want
        exact = (image.astype(int) - low) * 255 % max(high - low, 1) == 0
        assert set(np.unique(off)) <= {0, 1}
        assert (off[~exact] == 0).all()


def test_grayscale_matches_pillow_on_a_grid_of_colours():
    grid = np.stack(np.meshgrid(*[np.arange(0, 256, 5)] * 3, indexing="ij"), -1).reshape(52, -1, 3)
    want = to_array(to_pillow(grid).convert("L"))
    np.testing.assert_array_equal(jax.jit(levels.grey)(jnp.asarray(grid, jnp.int32)), want)


def test_hue_matches_torchvision_on_a_grid_of_colours():
    grid = np.stack(np.meshgrid(*[np.arange(0, 256, 5)] * 3, indexing="ij"), -1).reshape(52, -1, 3)
    turn, saturation, value = to_pillow(grid).convert("HSV").split()
    run = jax.jit(levels.hue)
    for shift in (-127, -20, 0, 1, 77, 127):
        turned = np.asarray(turn) + np.int32(shift).astype(np.uint8)
        want = Image.merge("HSV", (Image.fromarray(turned), saturation, value)).convert("RGB")
        got = run(jnp.asarray(grid, jnp.int32), jnp.int32(shift))
        np.testing.assert_allclose(got, to_array(want), atol=1, rtol=0)


@pytest.mark.parametrize("largest", [2.0, 9.0])
def test_gaussian_blur_matches_pillow(largest):
    run = jax.jit(lambda x, radius: levels.gaussian_blur(x, radius, largest))
    for seed in range(20):
        image = draw(seed, SHAPES[seed % 2])
        radius = np.float32(np.random.default_rng(seed).uniform(0.1, largest))
        want = to_array(to_pillow(image).filter(ImageFilter.GaussianBlur(float(radius))))
        got = run(jnp.asarray(image, jnp.int32), radius)
        np.testing.assert_allclose(got, want, atol=1, rtol=0)


def test_colours_need_one_or_three_channels():
    for function in (levels.grey, lambda x: levels.hue(x, 3)):
        with pytest.raises(ValueError, match="colours need 1 or 3 channels, the image has 2"):
            function(jnp.zeros((4, 4, 2), jnp.int32))
