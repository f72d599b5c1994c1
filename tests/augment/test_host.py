"""Host operations compared with Pillow and with brute force."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cv_jax import augment
from cv_jax.augment import host
from cv_jax.data import decode
from cv_jax.errors import InputError


def picture(height, width, channels, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)


@pytest.mark.parametrize(
    "text", ["inception_crop(24)", "random_crop(20)", "central_crop(30)", "resize_small(20)"]
)
def test_a_jpeg_that_is_decoded_in_windows_gives_the_same_pixels(text):
    buffer = io.BytesIO()
    Image.fromarray(picture(90, 70, 3)).save(buffer, "JPEG")
    parsed = augment.parse(text)
    for seed in range(20):
        jpeg = decode.open_image(buffer.getvalue(), 3, str)
        assert isinstance(jpeg, decode.Jpeg)
        got, expected = (
            augment.apply_host(parsed.fixed + parsed.host, np.random.default_rng(seed), image)
            for image in (jpeg, np.asarray(Image.open(buffer)))
        )
        np.testing.assert_array_equal(got, expected)


@given(st.integers(1, 9), st.integers(1, 9), st.integers(-10, 10), st.integers(-10, 10))
@settings(max_examples=60, deadline=None)
def test_shift_moves_every_pixel_and_fills_with_black(height, width, down, right):
    image = picture(height, width, 2)
    got = host.shift(down, right)(None, image)
    for y in range(height):
        for x in range(width):
            inside = 0 <= y - down < height and 0 <= x - right < width
            assert (got[y, x] == (image[y - down, x - right] if inside else 0)).all()


def test_mirror_and_shift_are_deterministic():
    """Both are allowed in `config.eval_preprocess`."""
    image = picture(6, 8, 3)
    parsed = augment.parse("resize(12)|mirror|shift(-2, 3)")
    assert len(parsed.fixed) == 3
    flipped = Image.fromarray(image).transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    np.testing.assert_array_equal(host.mirror()(None, image), np.asarray(flipped))
    jpeg = io.BytesIO()
    Image.fromarray(image).save(jpeg, "JPEG")
    for operation in (host.mirror(), host.shift(1, 1)):
        opened = decode.open_image(jpeg.getvalue(), 3, str)
        assert operation(None, opened).shape == image.shape


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 5))
@settings(max_examples=30, deadline=None)
def test_shuffle_pixels_is_one_permutation_of_all_images(height, width, seed):
    """The permutation that a picture of the places shows is that of any other image of the size."""
    places = np.arange(height * width, dtype=np.int64).reshape(height, width, 1)
    order = host.shuffle_pixels(seed)(None, places).reshape(-1)
    assert sorted(order) == list(range(height * width))
    image = picture(height, width, 3)
    got = host.shuffle_pixels(seed)(np.random.default_rng(1), image)
    assert got.dtype == np.uint8
    np.testing.assert_array_equal(got.reshape(-1, 3), image.reshape(-1, 3)[order])


def test_shuffle_pixels_moves_most_pixels_and_depends_on_the_seed():
    places = np.arange(32 * 32).reshape(32, 32, 1)
    first, second = (host.shuffle_pixels(seed)(None, places) for seed in (0, 1))
    assert (first == places).mean() < 0.02
    assert (first == second).mean() < 0.02
    with pytest.raises(InputError, match="seed must not be negative"):
        augment.parse("resize(8)|shuffle_pixels(-1)")


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 20))
@settings(max_examples=30, deadline=None)
def test_resize_small_makes_the_short_side_exact_and_keeps_the_aspect(height, width, size):
    got = host.resize_small(size)(None, picture(height, width, 1))
    assert min(got.shape[:2]) == size
    long = max(height, width) * size / min(height, width)
    assert long - 1 < max(got.shape[:2]) <= long


@given(st.integers(1, 20), st.integers(1, 20), st.integers(1, 20), st.integers(1, 20))
@settings(max_examples=50, deadline=None)
def test_crops_are_windows_of_the_padded_image(height, width, rows, columns):
    image = picture(height, width, 2)
    down, right = max(0, rows - height), max(0, columns - width)
    top, left = down // 2, right // 2
    padded = np.zeros((height + down, width + right, 2), np.uint8)
    padded[top : top + height, left : left + width] = image
    windows = {
        padded[y : y + rows, x : x + columns].tobytes()
        for y in range(padded.shape[0] - rows + 1)
        for x in range(padded.shape[1] - columns + 1)
    }
    for crop in (host.central_crop((rows, columns)), host.random_crop((rows, columns))):
        got = crop(np.random.default_rng(1), image)
        assert got.shape == (rows, columns, 2)
        assert got.tobytes() in windows


def test_the_central_crop_leaves_equal_borders():
    image = picture(10, 12, 1)
    got = host.central_crop(4)(None, image)
    np.testing.assert_array_equal(got, image[3:7, 4:8])


def test_random_crops_reach_every_place_equally_often():
    image = np.arange(16, dtype=np.uint8).reshape(4, 4, 1)
    crop, generator = host.random_crop(2), np.random.default_rng(0)
    corners = [crop(generator, image)[0, 0, 0] for _ in range(9000)]
    values, counts = np.unique(corners, return_counts=True)
    assert sorted(values) == [0, 1, 2, 4, 5, 6, 8, 9, 10]
    # Nine cells of mean 1000: chi-squared with 8 degrees of freedom exceeds 31.8 with p = 1e-4.
    assert ((counts - 1000) ** 2 / 1000).sum() < 31.8


def test_inception_crops_have_the_stated_areas_and_aspects():
    # Each pixel encodes its position, so a crop identifies its window.
    rows, columns = np.meshgrid(np.arange(200), np.arange(250), indexing="ij")
    image = np.stack([rows, columns], axis=-1).astype(np.uint8)
    generator = np.random.default_rng(0)
    crop = host.inception_crop(50, 0.2, 0.6, method="nearest")
    shares, ratios = [], []
    for _ in range(400):
        got = crop(generator, image).astype(float)
        assert got.shape == (50, 50, 2)
        # Nearest sampling of 50 cell centres: first and last centre are 49/50 of a side apart.
        height = (got[-1, 0, 0] - got[0, 0, 0]) * 50 / 49
        width = (got[0, -1, 1] - got[0, 0, 1]) * 50 / 49
        shares.append(height * width / (200 * 250))
        ratios.append(width / height)
    assert 0.18 < min(shares) < 0.25
    assert 0.52 < max(shares) < 0.64
    assert abs(np.mean(shares) - 0.4) < 0.03
    assert min(ratios) > 0.72
    assert max(ratios) < 1.39
    assert abs(np.mean(np.log(ratios))) < 0.03


def test_an_inception_crop_of_a_strip_falls_back_to_the_centre():
    image = picture(4, 400, 1)
    got = host.inception_crop(4, 0.9, 1.0, method="nearest")(np.random.default_rng(0), image)
    middle = image[:, 197:202]
    expected = np.asarray(Image.fromarray(middle[..., 0]).resize((4, 4), Image.Resampling.NEAREST))
    np.testing.assert_array_equal(got[..., 0], expected)
