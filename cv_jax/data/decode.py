"""Decoding: encoded bytes → uint8 [H, W, C], of the whole image or of one window.

The pixels equal those of Pillow's `convert("RGB")`, as in torchvision and timm: grey and palette
images are expanded to the channels, CMYK is converted, alpha is dropped (transparent pixels keep
their colour), the first of several frames is used, and the EXIF orientation is ignored. The
exception is 16-bit images: their high byte is used, where Pillow clips at 255.

JPEGs are decoded by libjpeg-turbo directly, with Pillow's settings (accurate inverse DCT, smooth
chroma upsampling): the same pixels in less time.

Both decoders follow the same rules. The content decides the format, not the name of the file. An
image with more pixels than the limit is refused after its header is read, before memory for its
pixels is allocated.
"""

import io
import re
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import simplejpeg
from PIL import Image

from cv_jax.errors import RunError

# Pillow tries these formats only. Some of its other readers start programs (EPS: Ghostscript).
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM")

# The default limit. By default, Pillow refuses an image above it as a decompression bomb.
MAX_PIXELS = 178_956_970

# Pillow's own limit would refuse images below a higher limit of a run.
Image.MAX_IMAGE_PIXELS = None

_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


class BrokenExample(RunError):
    """An unreadable example; the message is one line with the location and the reason."""


def open_image(
    data: bytes | np.ndarray,
    channels: int,
    place: Callable[[], str],
    max_pixels: int = MAX_PIXELS,
):
    """Return the image as an array, or as a `Jpeg`, which is decoded when its pixels are read.

    Args:
      data: an encoded image, or its pixels, uint8 [H, W, C].
      channels: 1, 3 or 4.
      place: returns the location of the data, for error messages.
      max_pixels: largest height times width of an encoded image.

    Raises:
      BrokenExample: the bytes are not an image of a supported format and mode, or the image has
        more pixels than allowed.
    """
    if isinstance(data, np.ndarray):
        return data
    frame = _frame(data) if channels != 4 else None
    if frame is None or frame.components not in (1, channels):
        return _decode_with_pillow(data, channels, place, max_pixels)
    if frame.height * frame.width > max_pixels:
        raise BrokenExample(f"{place()}: {_too_large(frame.height * frame.width, max_pixels)}")
    return Jpeg(data, frame, channels, place, max_pixels)


def _too_large(pixels: int, max_pixels: int) -> str:
    return (
        f"{pixels:,} pixels, more than the limit of {max_pixels:,} (config.data.max_pixels; "
        "--max-pixels of prepare and predict)"
    )


class Jpeg:
    """A lazily decoded JPEG with the array interface of host operations: `shape`, windows
    `image[top:bottom, left:right]`, and conversion to uint8 [H, W, C].

    The first window is decoded without the rows below it, which saves their share of the time. A
    second window decodes and keeps the whole image. The pixels are equal in both cases.
    """

    dtype = np.dtype(np.uint8)
    ndim = 3

    def __init__(
        self,
        data: bytes,
        frame: "Frame",
        channels: int,
        place: Callable[[], str],
        max_pixels: int = MAX_PIXELS,
    ):
        self.shape = (frame.height, frame.width, channels)
        self._data, self._frame, self._place = data, frame, place
        self._max_pixels = max_pixels
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
        """Decode the rows above `bottom`; the result may have more rows."""
        height, width, channels = self.shape
        data = self._data
        # Subsampled chroma is interpolated: the last row may need the next row of chroma.
        rows = min(height, bottom + 1)
        if self._frame.one_scan and rows < height:
            # The decoder stops after the number of rows in the header.
            data = bytearray(data)
            data[self._frame.position : self._frame.position + 2] = rows.to_bytes(2, "big")
        try:
            # Not strict: like Pillow, tolerate extraneous bytes.
            return simplejpeg.decode_jpeg(data, "GRAY" if channels == 1 else "RGB", strict=False)
        except ValueError:
            return _decode_with_pillow(self._data, channels, self._place, self._max_pixels)


class Frame(NamedTuple):
    """The headers of a JPEG.

    Attributes:
      height: of the image, in pixels.
      width: likewise.
      components: 1 for grey, 3 for colour.
      position: offset of the two bytes of the height.
      one_scan: the image is coded in one sequential scan, so its upper rows can be decoded alone.
    """

    height: int
    width: int
    components: int
    position: int
    one_scan: bool


def _frame(data: bytes) -> Frame | None:
    """Read the headers of an 8-bit JPEG; `None` for other data and for truncated files."""
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
            # Without an end-of-image marker the file is truncated.
            if frame is None or not frame.height or data.rfind(b"\xff\xd9", body) < 0:
                return None
            one_scan = frame.one_scan and data[body] == frame.components
            return frame._replace(one_scan=one_scan)
        at = body + length - 2
    return None


# A segment marker after any number of fill bytes, and the length of the segment. Markers without a
# length (0xd0 to 0xd9) end the search: libjpeg would go on at another byte, and find another size.
_SEGMENT = re.compile(rb"\xff+([\xc0-\xcf\xda-\xfe])(..)", re.DOTALL)


def _decode_with_pillow(
    data: bytes, channels: int, place: Callable[[], str], max_pixels: int
) -> np.ndarray:
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            pixels = image.height * image.width
            if pixels > max_pixels:
                raise ValueError(_too_large(pixels, max_pixels))
            return _convert(image, channels)
    except Exception as error:  # Pillow's readers raise many types
        if isinstance(error, Image.UnidentifiedImageError):
            error = f"unknown image format; allowed: {', '.join(FORMATS)}" if data else "empty"
        raise BrokenExample(f"{place()}: {' '.join(str(error).split())}") from None


def _convert(image: Image.Image, channels: int) -> np.ndarray:
    """Convert a Pillow image of any mode to uint8 [H, W, channels]."""
    if image.mode in ("I", "F"):
        raise ValueError(f"pixels of mode {image.mode} have no defined range")
    if image.mode.startswith("I;16"):
        pixels = np.asarray(image) >> 8
        image = Image.fromarray(pixels.astype(np.uint8))
    if image.mode not in ("1", "L", "LA"):
        image = image.convert("RGBA" if channels == 4 else "RGB")
    pixels = np.asarray(image.convert(_MODES[channels]))
    return pixels[..., None] if channels == 1 else pixels
