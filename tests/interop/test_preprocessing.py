"""Preprocessing in the terms of timm, compared with Pillow as timm's transforms call it."""

import math

import numpy as np
import pytest
from PIL import Image

from cv_jax.augment import apply_host
from cv_jax.evaluation import plan
from cv_jax.interop import preprocessing


def timm_pixels(image, size, crop_pct, interpolation, crop_mode):
    """timm 1.0's evaluation transform for sides that are not smaller than the crop."""
    method = Image.Resampling[interpolation.upper()]
    height, width = (math.floor(side / crop_pct) for side in size)
    if crop_mode == "center" and height == width:
        short = min(image.size)
        width, height = (height * side // short for side in image.size)
    elif crop_mode == "center":  # ResizeKeepRatio
        ratio = min(image.size[1] / height, image.size[0] / width)
        width, height = (round(side / ratio) for side in image.size)
    image = image.resize((width, height), method)
    top, left = round((height - size[0]) / 2), round((width - size[1]) / 2)
    return np.asarray(image.crop((left, top, left + size[1], top + size[0])))


def pixels(text, image, size):
    operations = plan.preprocessing(text, size, "config.eval_preprocess")
    return np.asarray(apply_host(operations.fixed, None, np.asarray(image)))


@pytest.mark.parametrize("mode", ["center", "squash"])
@pytest.mark.parametrize("method", preprocessing.METHODS)
@pytest.mark.parametrize("share", [0.875, 0.9, 0.95, 1.0])
@pytest.mark.parametrize("size", [(24, 24), (20, 28), (27, 13)])
def test_pixels_are_those_of_timm(mode, method, share, size):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 57, 3), np.uint8))
    facts = {"crop_pct": share, "interpolation": method, "crop_mode": mode}
    text = preprocessing.from_timm(facts, size)
    expected = timm_pixels(image, size, share, method, mode)
    np.testing.assert_array_equal(pixels(text, image, size), expected)
    back = preprocessing.to_timm(text, size)
    np.testing.assert_array_equal(timm_pixels(image, size, **back), expected)


@pytest.mark.parametrize("resized", range(24, 60))
def test_every_size_of_the_shorter_side_has_a_crop_pct(resized):
    text = f"resize_small({resized}, method='bicubic')|central_crop(24)"
    facts = preprocessing.to_timm(text, (24, 24))
    assert math.floor(24 / facts["crop_pct"]) == resized
    assert (facts["interpolation"], facts["crop_mode"]) == ("bicubic", "center")


def test_timms_defaults():
    assert (
        preprocessing.from_timm({}, (224, 224)) == "resize_small(256, 'bicubic')|central_crop(224)"
    )


def test_the_default_resizes_both_sides():
    facts = {"crop_pct": 1.0, "interpolation": "bilinear", "crop_mode": "squash"}
    assert preprocessing.to_timm("", (20, 28)) == facts


@pytest.mark.parametrize(
    "text",
    [
        "resize(32)|flips",
        "multi_scale((24, 32))",
        "mirror",
        "central_crop(24)",
        "resize_small(24)",
        "resize_small((28, 28))|central_crop(24)",
        "resize(28)",
        "resize_small(28)|central_crop(26)",
        "resize_small(28)|central_crop(24)|mirror",
        "resize_small(28, 'linear')|central_crop(24)",
    ],
)
def test_what_timm_cannot_express(text):
    assert preprocessing.to_timm(text, (24, 24)) is None


@pytest.mark.parametrize(
    "facts", [{"crop_mode": "border"}, {"interpolation": "random"}, {"interpolation": "box"}]
)
def test_what_no_operation_expresses(facts):
    assert preprocessing.from_timm(facts, (24, 24)) is None


def test_another_input_size_keeps_the_share():
    text = "resize_small(256, 'bicubic')|central_crop(224)"
    scaled = "resize_small(512, 'bicubic')|central_crop(448)"
    assert preprocessing.resized(text, (224, 224), (448, 448)) == scaled
    assert preprocessing.resized("flips", (24, 24), (24, 24)) == "flips"
    assert preprocessing.resized("", (24, 24), (48, 48)) == ""
    assert preprocessing.resized("resize(24)|flips", (24, 24), (48, 48)) is None
