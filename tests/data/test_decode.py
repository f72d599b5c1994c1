"""Decoding compared with Pillow."""

import io

import numpy as np
import pytest
import simplejpeg
from encoded_images import JPEG, encoded, opened, picture, pixels_of
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cv_jax.data import decode


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("mode", ["RGB", "L"])
@given(data=st.data())
@settings(max_examples=25, deadline=None)
def test_windows_of_a_jpeg_match_pillow(mode, progressive, subsampling, data):
    height, width = data.draw(st.integers(1, 90)), data.draw(st.integers(1, 90))
    original = picture(height, width, mode)
    file = encoded(original, "JPEG", quality=90, subsampling=subsampling, progressive=progressive)
    whole = np.asarray(Image.open(io.BytesIO(file)).convert("RGB"))
    image = opened(file)
    assert isinstance(image, decode.Jpeg)
    assert image.shape == whole.shape
    for _ in range(2):  # the first window is decoded alone, the second with the whole image
        top = data.draw(st.integers(0, height - 1))
        bottom = data.draw(st.integers(top + 1, height))
        left = data.draw(st.integers(0, width - 1))
        right = data.draw(st.integers(left + 1, width))
        got = image[top:bottom, left:right]
        np.testing.assert_array_equal(got, whole[top:bottom, left:right])
    np.testing.assert_array_equal(np.asarray(image), whole)


@pytest.mark.parametrize("subsampling", ["444", "422", "420", "440", "411"])
@pytest.mark.parametrize("height", [33, 48])
def test_every_row_may_be_the_last_of_a_window(subsampling, height):
    """The chroma of the last rows is interpolated from rows below the window."""
    original = np.asarray(picture(height, 21))
    file = simplejpeg.encode_jpeg(original, quality=95, colorsubsampling=subsampling)
    whole = np.asarray(Image.open(io.BytesIO(file)))
    for bottom in range(1, height + 1):
        np.testing.assert_array_equal(opened(file)[0:bottom, 0:21], whole[:bottom])


def test_restart_markers_and_bytes_between_segments_change_nothing():
    original = picture(70, 50)
    file = encoded(original, "JPEG", restart_marker_rows=1, comment=b"\xff\xda\xff\xd9 no marker")
    file = file[:2] + b"\xff" + file[2:] + b"after the end"
    whole = np.asarray(Image.open(io.BytesIO(file)))
    np.testing.assert_array_equal(opened(file)[3:20, 5:9], whole[3:20, 5:9])


@pytest.mark.parametrize(
    ("mode", "kind"),
    [
        ("1", "PNG"),
        ("L", "PNG"),
        ("LA", "PNG"),
        ("P", "PNG"),
        ("P", "GIF"),
        ("RGB", "BMP"),
        ("RGBA", "PNG"),
        ("RGBA", "WEBP"),
        ("CMYK", "JPEG"),
        ("CMYK", "TIFF"),
        ("YCbCr", "JPEG"),
    ],
)
def test_every_mode_is_converted_like_pillow(mode, kind):
    image = picture(9, 7, "RGB" if mode == "P" else "L" if mode == "1" else mode)
    file = encoded(image.convert(mode), kind)
    expected = Image.open(io.BytesIO(file)).convert("RGB")
    np.testing.assert_array_equal(pixels_of(file), np.asarray(expected))
    assert pixels_of(file, 1).shape == (9, 7, 1)
    assert pixels_of(file, 4).shape == (9, 7, 4)


def test_alpha_is_dropped_and_not_composited():
    image = Image.new("RGBA", (2, 2), (10, 200, 30, 0))
    assert (pixels_of(encoded(image, "PNG")) == (10, 200, 30)).all()
    palette = Image.new("P", (2, 2), 1)
    palette.putpalette([0, 0, 0, 10, 200, 30])
    file = encoded(palette, "PNG", transparency=1)
    assert (pixels_of(file) == (10, 200, 30)).all()


def test_sixteen_bits_keep_their_high_byte():
    values = np.array([[0, 255, 256, 40000, 65535]], np.uint16)
    file = encoded(Image.fromarray(values), "PNG")
    np.testing.assert_array_equal(pixels_of(file, 1)[..., 0], values >> 8)
    np.testing.assert_array_equal(pixels_of(file)[..., 2], values >> 8)


def test_exif_orientation_is_ignored():
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated by 90°
    image = picture(10, 20)
    assert pixels_of(encoded(image, "JPEG", exif=exif)).shape == (10, 20, 3)


def test_an_animation_gives_its_first_frame():
    frames = [Image.new("RGB", (4, 4), c) for c in ((255, 0, 0), (0, 255, 0))]
    file = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert (pixels_of(file) == (255, 0, 0)).all()


def test_arrays_are_returned_unchanged():
    pixels = np.random.default_rng(0).integers(0, 256, (3, 4, 3), np.uint8)
    assert opened(pixels) is pixels


PNG = encoded(picture(64, 64), "PNG")


@pytest.mark.parametrize(
    ("file", "message"),
    [
        (b"", "empty"),
        (b"not an image", "unknown image format"),
        (JPEG[: len(JPEG) // 2], "truncated"),
        (JPEG[:-2], "truncated"),
        (JPEG[:30], ""),
        (PNG[: len(PNG) // 2], "truncated"),
        (encoded(Image.new("F", (2, 2)), "TIFF"), "mode F have no defined range"),
    ],
)
def test_errors_have_the_location_and_the_reason(file, message):
    with pytest.raises(decode.BrokenExample) as caught:
        pixels_of(file)
    assert str(caught.value).startswith("here: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@given(st.integers(0, len(JPEG) - 1), st.integers(0, 255))
@settings(max_examples=200, deadline=None)
def test_a_damaged_byte_gives_pixels_or_a_broken_example(place, value):
    file = bytearray(JPEG)
    file[place] = value
    try:
        got = pixels_of(bytes(file))
    except decode.BrokenExample:
        return
    assert got.dtype == np.uint8
    assert got.shape[-1] == 3


# ---- Formats and sizes: the same rules for both decoders


def test_only_the_listed_formats_are_opened_by_content():
    """Pillow starts Ghostscript for the first, whatever the name of the file."""
    for data in (
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n",
        encoded(picture(8, 8), "TGA"),
        encoded(picture(8, 8), "ICO"),
        encoded(picture(8, 8), "PCX"),
    ):
        with pytest.raises(decode.BrokenExample, match="here: unknown image format; allowed: JPEG"):
            opened(data)
