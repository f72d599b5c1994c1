"""Decoding: encoded bytes → uint8 [H, W, C], whole, or only the window that is read.

What an image becomes is what Pillow's `convert("RGB")` makes of it, as torchvision and timm load
images: grey and palette images are spread over the channels, CMYK is converted, alpha is dropped
(the colour below transparent pixels stays), of several frames the first is taken, and the
orientation that EXIF states is ignored. Images of 16 bits are the exception: their high byte is
taken, where Pillow would clip at 255.

JPEGs go through libjpeg-turbo directly, with the accurate inverse DCT and smooth upsampling of
chroma that are Pillow's too: the same pixels in less time.
"""

import io
import re
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import simplejpeg
from PIL import Image

from cv_jax.errors import RunError

_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


class BrokenExample(RunError):
    """An example that cannot be read; the message is one line with its place and the reason."""


def open_image(data: bytes | np.ndarray, channels: int, place: Callable[[], str]):
    """The image as an array, or as a `Jpeg`, which decodes on being read.

    Args:
      data: an encoded image, or its pixels, uint8 [H, W, C].
      channels: 1, 3 or 4.
      place: says where the data come from, for error messages.

    Raises:
      BrokenExample: the bytes are no image, or one of a kind that is not defined.
    """
    if isinstance(data, np.ndarray):
        return data
    frame = _frame(data) if channels != 4 else None
    if frame is not None and frame.components in (1, channels):
        return Jpeg(data, frame, channels, place)
    return _decode_with_pillow(data, channels, place)


class Jpeg:
    """A JPEG that behaves like uint8 [H, W, C] in what operations on the host use: `shape`, windows
    `image[top:bottom, left:right]`, and conversion to an array.

    The first window is decoded alone: rows below it are left out, which saves their share of the
    time. A second one decodes the whole image and keeps it. Either way the pixels are those of the
    whole decoded image.
    """

    dtype = np.dtype(np.uint8)
    ndim = 3

    def __init__(self, data: bytes, frame: "Frame", channels: int, place: Callable[[], str]):
        self.shape = (frame.height, frame.width, channels)
        self._data, self._frame, self._place = data, frame, place
        self._read, self._whole = False, None

    def __getitem__(self, window: tuple[slice, slice]) -> np.ndarray:
        rows, columns = window
        if self._whole is None and not self._read:
            self._read = True
            bottom = rows.indices(self.shape[0])[1]
            return self._rows(bottom)[rows, columns]
        return np.asarray(self)[rows, columns]

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        if self._whole is None:
            self._whole = self._rows(self.shape[0])
        return np.array(self._whole, dtype, copy=copy)

    def _rows(self, bottom: int) -> np.ndarray:
        """The image down to `bottom`, or somewhat further."""
        height, width, channels = self.shape
        data = self._data
        # Chroma of half the height is interpolated: the last row may need the next row of chroma.
        rows = min(height, bottom + 1)
        if self._frame.one_scan and rows < height:
            # The decoder stops after as many rows as the header states.
            data = bytearray(data)
            data[self._frame.position : self._frame.position + 2] = rows.to_bytes(2, "big")
        try:
            # Not strict: like Pillow, tolerate bytes that belong to nothing.
            return simplejpeg.decode_jpeg(data, "GRAY" if channels == 1 else "RGB", strict=False)
        except ValueError:
            return _decode_with_pillow(self._data, channels, self._place)


class Frame(NamedTuple):
    """What a JPEG's headers say.

    Attributes:
      height: of the image, in pixels.
      width: likewise.
      components: 1 for grey, 3 for colours.
      position: of the two bytes that hold the height.
      one_scan: the image is coded from top to bottom once, so that a part of it can be decoded.
    """

    height: int
    width: int
    components: int
    position: int
    one_scan: bool


def _frame(data: bytes) -> Frame | None:
    """Reads the headers of a JPEG of 8 bits; none if it is another, or not whole."""
    if data[:2] != b"\xff\xd8":
        return None
    frame, at = None, 2
    while match := _SEGMENT.match(data, at):
        kind, length = match[1][0], int.from_bytes(match[2], "big")
        body = match.end()
        if kind in (0xC0, 0xC1, 0xC2) and frame is None:  # sequential and progressive, Huffman
            if data[body] != 8:
                return None
            height = int.from_bytes(data[body + 1 : body + 3], "big")
            width = int.from_bytes(data[body + 3 : body + 5], "big")
            frame = Frame(height, width, data[body + 5], body + 1, kind != 0xC2)
        elif kind == 0xDA:
            # Without an end-of-image marker the file was cut short.
            if frame is None or not frame.height or data.rfind(b"\xff\xd9", body) < 0:
                return None
            one_scan = frame.one_scan and data[body] == frame.components
            return frame._replace(one_scan=one_scan)
        at = body + length - 2
    return None


# A marker of a segment, after any number of fill bytes, and the segment's length.
_SEGMENT = re.compile(rb"\xff+([\xc0-\xfe])(..)", re.DOTALL)


def _decode_with_pillow(data: bytes, channels: int, place: Callable[[], str]) -> np.ndarray:
    try:
        with Image.open(io.BytesIO(data)) as image:
            return _convert(image, channels)
    except Exception as error:  # Pillow's readers raise many kinds
        if isinstance(error, Image.UnidentifiedImageError):
            error = "no image of a known format" if data else "empty"
        raise BrokenExample(f"{place()}: {' '.join(str(error).split())}") from None


def _convert(image: Image.Image, channels: int) -> np.ndarray:
    """uint8 [H, W, channels] of a Pillow image of any mode."""
    if image.mode in ("I", "F"):
        raise ValueError(f"pixels of mode {image.mode} have no defined range")
    if image.mode.startswith("I;16"):
        pixels = np.asarray(image) >> 8
        image = Image.fromarray(pixels.astype(np.uint8))
    if image.mode not in ("1", "L", "LA"):
        image = image.convert("RGBA" if channels == 4 else "RGB")
    pixels = np.asarray(image.convert(_MODES[channels]))
    return pixels[..., None] if channels == 1 else pixels
