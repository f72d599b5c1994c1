"""Invariants of all operations on one image, and distributions of their draws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from PIL import Image
from pillow import affine as reference
from pillow import operate, to_array, to_pillow

from cv_jax import augment
from cv_jax.augment import affine, colour, geometry

COUNT, HEIGHT, WIDTH = 8, 10, 13
KEYS = jax.random.split(jax.random.key(0), COUNT)
STRINGS = {
    name: "pad_crop(2)" if name == "pad_crop" else name
    for name in augment.STAGES["image"]
    if name not in ("flip", "flip_vertical")
} | {"flip": "flip(0.4)", "flip_vertical": "flip_vertical(0.4)"}


def pictures(count=COUNT, channels=3):
    draw = np.random.default_rng(0).integers(0, 256, (count, HEIGHT, WIDTH, channels))
    return jnp.asarray(draw, jnp.float32)


def jitted(string):
    operations = augment.parse(string).image
    return jax.jit(lambda keys, images: augment.apply_images(operations, keys, images))


@pytest.mark.parametrize("string", STRINGS.values(), ids=STRINGS)
def test_dtype_shape_and_range_are_kept_and_keys_determine_pixels(string):
    run, images = jitted(string), pictures()
    got = run(KEYS, images)
    assert (got.shape, got.dtype) == (images.shape, images.dtype)
    assert got.min() >= 0
    assert got.max() <= 255
    if string != "lighting":
        np.testing.assert_array_equal(got, jnp.round(got))
    np.testing.assert_array_equal(run(KEYS, images), got)
    # Pixels depend on the key of the image, not on its index or on other images.
    np.testing.assert_array_equal(run(KEYS[::-1], images[::-1])[::-1], got)


@pytest.mark.parametrize("name", STRINGS)
def test_probability_zero_is_the_identity(name):
    arguments = "2, probability=0.0" if name == "pad_crop" else "probability=0.0"
    images = pictures() + 0.25  # the identity does not round
    operations = augment.parse(f"{name}({arguments})").image
    np.testing.assert_array_equal(augment.apply_images(operations, KEYS, images), images)


def test_an_operation_runs_in_the_stated_share_of_images():
    keys = jax.random.split(jax.random.key(0), 1000)
    got = np.asarray(jitted("invert(0.3)")(keys, pictures(1000)))
    changed = (got != np.asarray(pictures(1000))).any(axis=(1, 2, 3))
    assert scipy.stats.binomtest(int(changed.sum()), 1000, 0.3).pvalue > 1e-3


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation", "sharpness"])
def test_factors_are_uniform_around_one(name):
    keys = jax.random.split(jax.random.key(1), 1000)
    factors = np.asarray(jax.jit(jax.vmap(lambda key: colour._factor(key, 0.4)))(keys))
    assert scipy.stats.kstest(factors, scipy.stats.uniform(0.6, 0.8).cdf).pvalue > 1e-3
    # The operation uses this factor.
    got = jitted(f"{name}(0.4, probability=1)")(KEYS, pictures())
    for i, key in enumerate(KEYS):
        factor = colour._factor(jax.random.fold_in(key, 0), 0.4)
        exact = float(np.round(np.float32(factor) * 4096) / 4096)
        want = to_array(operate(to_pillow(pictures()[i]), name, exact, "", 0))
        np.testing.assert_array_equal(got[i], want)


def test_colour_jitter_matches_pillow_in_a_random_order():
    keys = jax.random.split(jax.random.key(2), 120)
    images = pictures(120)
    got = np.asarray(jitted("colour_jitter(0.4, 0.4, 0.4)")(keys, images))
    names = ("brightness", "contrast", "saturation")
    orders = set()
    for i, key in enumerate(keys):
        order_key, key = jax.random.split(jax.random.fold_in(key, 0))
        order = [int(n) for n in jax.random.permutation(order_key, 3)]
        factors = [colour._factor(k, 0.4) for k in jax.random.split(key, 3)]
        want = to_pillow(images[i])
        for n in order:
            exact = float(np.round(np.float32(factors[n]) * 4096) / 4096)
            want = operate(want, names[n], exact, "", 0)
        np.testing.assert_array_equal(got[i], to_array(want))
        orders.add(tuple(order))
        if len(orders) == 6 and i > 15:
            break
    assert len(orders) == 6


def test_hue_rotates_by_at_most_its_strength():
    red = jnp.zeros((200, 2, 2, 3)).at[..., 0].set(255.0)
    got = np.asarray(jitted("hue(0.1)")(jax.random.split(jax.random.key(0), 200), red))
    turns = [np.asarray(to_pillow(image).convert("HSV"))[0, 0, 0].astype(np.int8) for image in got]
    assert max(map(abs, turns)) <= 26
    assert min(turns) < -20
    assert max(turns) > 20


def test_colour_operations_keep_images_of_one_channel():
    images = pictures(channels=1)
    for string in ("saturation", "hue", "grayscale(1)"):
        np.testing.assert_array_equal(jitted(string)(KEYS, images), images)
    for string in ("contrast", "grayscale(1)", "randaugment"):
        with pytest.raises(ValueError, match="colours need 1 or 3 channels, the image has 4"):
            jitted(string)(KEYS, pictures(channels=4))


@pytest.mark.parametrize("name", ["translate", "shear", "rotate"])
def test_random_maps_match_pillow_with_the_drawn_matrix(name):
    string = {
        "translate": "translate(0.3, 'bilinear', 50)",
        "shear": "shear(0.4, 'bilinear', 50)",
        "rotate": "rotate(45, 'bilinear', 50)",
    }[name]
    got = np.asarray(jitted(string)(KEYS, pictures()))
    for i, key in enumerate(KEYS):
        key = jax.random.fold_in(key, 0)
        x, y = jax.random.uniform(key, (2,), minval=-1.0)
        angle = jax.random.uniform(key, (), minval=-1.0)
        matrix = {
            "translate": affine.translation(0.3 * x * WIDTH, 0.3 * y * HEIGHT),
            "shear": affine.shear(0.4 * x, 0.4 * y),
            "rotate": affine.rotation(45 * angle, HEIGHT, WIDTH),
        }[name]
        fill = (50, 50, 50)
        want = reference(to_pillow(pictures()[i]), list(map(float, matrix)), "bilinear", fill)
        off = np.abs(got[i] - to_array(want)).max(axis=-1)
        assert (off > 1).mean() < 0.01  # a pixel on the border of the image


@pytest.mark.parametrize("method", ["bilinear", "bicubic"])
def test_a_window_is_enlarged_exactly_as_by_pillow(method):
    run = jax.jit(geometry.enlarge, static_argnames="method")
    draw = np.random.default_rng(0)
    filters = dict(bilinear=Image.Resampling.BILINEAR, bicubic=Image.Resampling.BICUBIC)
    for _ in range(40):
        image = draw.integers(0, 256, (HEIGHT, WIDTH, 3))
        h, w = draw.integers(1, HEIGHT + 1), draw.integers(1, WIDTH + 1)
        top, left = draw.integers(0, HEIGHT - h + 1), draw.integers(0, WIDTH - w + 1)
        window = to_pillow(image[top : top + h, left : left + w])
        want = to_array(window.resize((WIDTH, HEIGHT), filters[method]))
        got = run(jnp.asarray(image, jnp.int32), top, left, h, w, method=method)
        np.testing.assert_array_equal(got, want)


def test_random_resized_crop_takes_the_central_window_when_none_fits():
    images = pictures()
    got = jitted("random_resized_crop(1, 1, 0.5, 0.5)")(KEYS, images)
    # Half as wide as high: all rows, the five central columns.
    want = [
        to_array(to_pillow(image[:, 4:9]).resize((WIDTH, HEIGHT), Image.Resampling.BILINEAR))
        for image in np.asarray(images)
    ]
    np.testing.assert_array_equal(got, want)
