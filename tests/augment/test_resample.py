"""Resampling compared with Pillow, with its algorithm in NumPy, and with linear interpolation."""

import concurrent.futures

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cv_jax.augment import resample

FILTERED = ["bilinear", "bicubic", "lanczos"]
sides = st.integers(1, 60)


def picture(height, width, channels, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)


def kernel(method, x):
    """The value of the filter at distance x."""
    x = np.abs(x)
    if method == "bilinear":
        return np.maximum(1 - x, 0)
    if method == "bicubic":  # Keys (1981) with parameter -1/2
        near, far = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
        return np.where(x < 1, near, np.where(x < 2, far, 0))
    return np.where(x < 3, np.sinc(x) * np.sinc(x / 3), 0)


REACH = {"bilinear": 1, "bicubic": 2, "lanczos": 3}


def along_first_axis(image, size, method):
    """Resample [N, ...] to [size, ...] in integers: weights of 22 bits, levels of 8 bits."""
    scale = len(image) / size
    stretch = max(scale, 1)
    rows = []
    for place in range(size):
        centre = (place + 0.5) * scale
        first = max(0, int(centre - REACH[method] * stretch + 0.5))
        last = min(len(image), int(centre + REACH[method] * stretch + 0.5))
        weights = kernel(method, (np.arange(first, last) + 0.5 - centre) / stretch)
        weights = weights / weights.sum() * 2**22
        weights = np.trunc(weights + np.copysign(0.5, weights)).astype(np.int64)
        total = np.tensordot(weights, image[first:last].astype(np.int64), axes=1) + 2**21
        rows.append(np.clip(total >> 22, 0, 255))
    return np.stack(rows).astype(np.uint8)


def reference(image, size, method):
    """Resample along rows first."""
    across = image
    if image.shape[1] != size[1]:
        across = along_first_axis(image.swapaxes(0, 1), size[1], method).swapaxes(0, 1)
    return along_first_axis(across, size[0], method) if len(image) != size[0] else across


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("method", ["nearest", *FILTERED])
def test_resample_matches_pillow(channels, method):
    image = picture(13, 17, channels)
    # Sizes for which every version of Pillow starts with the rows.
    for size in [(31, 9), (9, 7), (20, 17), (13, 5), (40, 60)]:
        got = resample.resample(image, size, method)
        for c in range(channels):
            plane = Image.fromarray(image[..., c])
            expected = plane.resize(size[::-1], resample.METHODS[method])
            np.testing.assert_array_equal(got[..., c], np.asarray(expected))


@given(sides, sides, sides, sides, st.sampled_from(FILTERED), st.integers(1, 4))
@settings(max_examples=60, deadline=None)
def test_resample_takes_rows_first_with_any_pillow(height, width, h, w, method, channels):
    image = picture(height, width, channels)
    got = resample.resample(image, (h, w), method)
    np.testing.assert_array_equal(got, reference(image, (h, w), method))


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("method", FILTERED)
def test_quick_is_within_a_level_of_exact_but_for_few_pixels(channels, method):
    draw = np.random.default_rng(0)
    differences = []
    for seed in range(30):
        height, width, h, w = draw.integers(1, 120, 4)
        image = picture(height, width, channels, seed)
        if seed % 2:  # smooth, like photographs
            ramp = np.add.outer(np.arange(height) * 3, np.arange(width) * 2)[..., None]
            image = ((image // 8 + ramp) % 256).astype(np.uint8)
        got = resample.resample(image, (h, w), method, quick=True)
        assert (got.shape, got.dtype) == ((h, w, channels), np.uint8)
        exact = resample.resample(image, (h, w), method)
        differences.append(np.abs(got.astype(int) - exact).ravel())
    differences = np.concatenate(differences)
    assert differences.max() <= (1 if method == "bilinear" else 2)
    assert (differences > 0).mean() < 0.03
    assert (differences > 1).mean() < 1e-4


def test_quick_is_thread_safe():
    images = [picture(90 + i, 80, 3, i) for i in range(40)]

    def resized(image):
        return resample.resample(image, (64, 64), "bicubic", quick=True)

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        for got, image in zip(pool.map(resized, images), images, strict=True):
            np.testing.assert_array_equal(got, resized(image))


def test_quick_without_the_vectorised_resampler_is_exact(monkeypatch):
    monkeypatch.setattr(resample, "vectorised", None)
    image = picture(50, 40, 3)
    got = resample.resample(image, (30, 35), "bicubic", quick=True)
    np.testing.assert_array_equal(got, reference(image, (30, 35), "bicubic"))


@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize("size", [(9, 31), (40, 6)])
def test_linear_interpolates_between_the_nearest_four(channels, size):
    image = picture(13, 17, channels)
    got = resample.resample(image, size, "linear")

    def weights(inputs, outputs):
        # Centres of output pixels in input coordinates, clipped to the image.
        places = np.clip((np.arange(outputs) + 0.5) * inputs / outputs - 0.5, 0, inputs - 1)
        return np.maximum(0, 1 - np.abs(places[:, None] - np.arange(inputs)))

    rows, columns = weights(13, size[0]), weights(17, size[1])
    expected = np.einsum("yi,xj,ijc->yxc", rows, columns, image.astype(float))
    assert np.abs(got - expected).max() <= 1
