"""Test-time views compared with explicit crops."""

import jax
import numpy as np
import pytest
from PIL import Image

from cv_jax import augment
from cv_jax.augment.views import apply_views, split, view_weights
from cv_jax.errors import InputError


def views_of(string, image):
    parsed = augment.parse(string)
    assert not parsed.fixed
    return apply_views(parsed.test, image)


@pytest.fixture(scope="module")
def image():
    return np.random.default_rng(0).integers(0, 256, (11, 14, 3), np.uint8)


def test_flips(image):
    (views,) = views_of("flips", image)
    np.testing.assert_array_equal(views, [image, np.fliplr(image)])


def test_ten_crop(image):
    (views,) = views_of("ten_crop((8, 6))", image)
    crops = [image[:8, :6], image[:8, 8:], image[3:, :6], image[3:, 8:], image[2:10, 4:10]]
    np.testing.assert_array_equal(views, crops + [np.fliplr(crop) for crop in crops])
    assert views.dtype == np.uint8


def test_ten_crop_pads_small_images(image):
    (views,) = views_of("ten_crop(13)", image)
    padded = np.pad(image, ((1, 1), (0, 0), (0, 0)))
    np.testing.assert_array_equal(views[0], padded[:, :13])
    np.testing.assert_array_equal(views[3], padded[:, 1:])


def test_several_scales_are_grouped_by_size(image):
    small, large = views_of("multi_scale((6, 9))|flips", image)
    assert (small.shape, large.shape) == ((2, 6, 6, 3), (2, 9, 9, 3))
    resized = np.asarray(Image.fromarray(image).resize((11, 9), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(large, [resized[:, 1:10], np.fliplr(resized[:, 1:10])])


def test_diagonal_shifts(image):
    (views,) = views_of("diagonal_shifts(2)", image)
    rows, columns = np.arange(11), np.arange(14)
    down_right = image[np.abs(rows - 2)][:, np.abs(columns - 2)]
    up_left = image[10 - np.abs(rows + 2 - 10)][:, 13 - np.abs(columns + 2 - 13)]
    np.testing.assert_array_equal(views, [image, down_right, up_left])
    with pytest.raises(InputError, match="pixels must be at least 1, got 0"):
        augment.parse("diagonal_shifts(0)")


def test_weights_multiply_and_follow_the_groups(image):
    def weights(string):
        return view_weights(augment.parse(string).test, image.shape)

    assert weights("flips|ten_crop(5)") is None
    expected = [0.25, 0.25, 0.125, 0.125, 0.125, 0.125]
    np.testing.assert_array_equal(weights("diagonal_shifts|flips"), expected)
    np.testing.assert_array_equal(weights("flips|diagonal_shifts"), 2 * [0.25, 0.125, 0.125])
    # Sizes 6 and 9 alternate in the list of views.
    expected = 2 * [0.25, 0.125, 0.125]
    np.testing.assert_array_equal(weights("diagonal_shifts|multi_scale((6, 9))"), expected)


def test_views_multiply(image):
    (views,) = views_of("flips|ten_crop(5)", image)
    assert views.shape == (20, 5, 5, 3)
    (once,) = views_of("ten_crop(5)", image)
    (mirrored,) = views_of("ten_crop(5)", image[:, ::-1])
    np.testing.assert_array_equal(views, np.concatenate([once, mirrored]))


@pytest.mark.parametrize(
    ("string", "on_device"),
    [("flips", True), ("diagonal_shifts|flips", True), ("flips|ten_crop(5)", False)],
)
def test_views_of_the_size_of_the_image_run_on_the_device(image, string, on_device):
    operations = augment.parse(string).test
    assert split(operations) == (((), operations) if on_device else (operations, ()))
    assert (
        augment.parse("diagonal_shifts(1)|flips").test
        == augment.parse("diagonal_shifts(1)|flips").test
    )  # the same programs
    if on_device:
        images = np.stack([image, 255 - image])
        found = jax.jit(lambda images: apply_views(operations, images))(images)
        np.testing.assert_array_equal(found[0], apply_views(operations, images)[0])
        assert found[0].dtype == np.uint8


@pytest.mark.parametrize(
    "string",
    ["flips", "ten_crop(13)|flips", "multi_scale((6, 9))|flips", "diagonal_shifts|ten_crop(5)"],
)
def test_views_of_several_images_are_those_of_each(image, string):
    images = np.stack([image, image[::-1], 255 - image])
    together = views_of(string, images)
    each = [views_of(string, one) for one in images]
    for i, views in enumerate(together):
        np.testing.assert_array_equal(views, np.stack([one[i] for one in each]))
