"""Decoding: encoded bytes → uint8 [H, W, C], of the whole image or of one window.

The pixels equal those of Pillow's `convert("RGB")`, as in torchvision and timm: grey and palette
images are expanded to the channels, CMYK is converted, alpha is dropped (transparent pixels keep
their colour), the first of several frames is used, and the EXIF orientation is ignored. The
exception is 16-bit images: their high byte is used, where Pillow clips at 255.

JPEGs are decoded by libjpeg-turbo directly, with Pillow's settings (accurate inverse DCT, smooth
chroma upsampling): the same pixels in less time.

Both decoders follow the same rules. The content decides the format, not the name of the file. An
image with more pixels than the limit is refused after its header is read, before memory for its
pixels is allocated. All threads of a process together decode at most this number of pixels at a
time, so the limit bounds the memory of the process; see `BYTES_PER_PIXEL`.
"""

import contextlib
import io
import os
import re
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import simplejpeg
from PIL import Image

from cv_jax.errors import RunError

# Pillow tries these formats only. Some of its other readers start programs (EPS: Ghostscript).
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM")

# The default limit. By default, Pillow refuses an image above it as a decompression bomb.
MAX_PIXELS = 178_956_970

# Most memory that decoding takes, with the result: that of an animated WebP. Tests measure it.
BYTES_PER_PIXEL = 26

# No image file of a supported format needs more: 16-bit RGBA, and room for metadata.
_FILE_BYTES_PER_PIXEL, _FILE_BYTES = 8, 2**26

# Pillow's own limit would refuse images below a higher limit of a run.
Image.MAX_IMAGE_PIXELS = None

_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


class BrokenExample(RunError):
    """An unreadable example; the message is one line with the location and the reason."""


def read_file(path: Path, max_pixels: int = MAX_PIXELS) -> bytes:
    """Return the content of an image file.

    Raises:
      ValueError: the path is not a file, or the file is larger than an image of `max_pixels`.
      OSError: the file cannot be read.
    """
    # A pipe without a writer would block.
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("not a file")
        most = _FILE_BYTES_PER_PIXEL * max_pixels + _FILE_BYTES
        if status.st_size > most:
            raise ValueError(
                f"{status.st_size:,} bytes, more than an image of {max_pixels:,} pixels needs "
                "(config.data.max_pixels; --max-pixels of prepare and predict)"
            )
        return file.read(status.st_size)  # a larger number would be allocated


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
            with _budget(height * width, self._max_pixels):
                # Not strict: like Pillow, tolerate extraneous bytes.
                colours = "GRAY" if channels == 1 else "RGB"
                return simplejpeg.decode_jpeg(data, colours, strict=False)
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
            pixels = max(image.height * image.width, _tile(image))
            if pixels > max_pixels:
                raise ValueError(_too_large(pixels, max_pixels))
            with _budget(pixels, max_pixels):
                return _convert(image, channels)
    except Exception as error:  # Pillow's readers raise many types
        if isinstance(error, Image.UnidentifiedImageError):
            error = f"unknown image format; allowed: {', '.join(FORMATS)}" if data else "empty"
        raise BrokenExample(f"{place()}: {' '.join(str(error).split())}") from None


def _tile(image: Image.Image) -> int:
    """Pixels of one tile of a TIFF, which is decoded as a whole; 0 for other images."""
    tags = getattr(image, "tag_v2", {})
    return int(tags.get(_TILE_WIDTH, 0)) * int(tags.get(_TILE_LENGTH, 0))


_TILE_WIDTH, _TILE_LENGTH = 322, 323  # tags

_decoding, _changed = [], threading.Condition()


@contextlib.contextmanager
def _budget(pixels: int, most: int) -> Iterator[None]:
    """Wait until this process decodes less than `most` pixels, with these `pixels`."""
    with _changed:
        _changed.wait_for(lambda: not _decoding or sum(_decoding) + pixels <= most)
        _decoding.append(pixels)
    try:
        yield
    finally:
        with _changed:
            _decoding.remove(pixels)
            _changed.notify_all()


def _forget() -> None:
    """A forked process has none of the threads that decode."""
    global _changed
    _changed = threading.Condition()
    _decoding.clear()


os.register_at_fork(after_in_child=_forget)


def _convert(image: Image.Image, channels: int) -> np.ndarray:
    """Convert a Pillow image of any mode to uint8 [H, W, channels]."""
    if image.mode in ("I", "F"):
        raise ValueError(f"pixels of mode {image.mode} have no defined range")
    if image.mode.startswith("I;16"):
        pixels = np.asarray(image) >> 8
        image = Image.fromarray(pixels.astype(np.uint8))
    if image.mode not in ("1", "L", "LA"):
        image = _in_mode(image, "RGBA" if channels == 4 else "RGB")
    pixels = np.asarray(_in_mode(image, _MODES[channels]))
    return pixels[..., None] if channels == 1 else pixels


def _in_mode(image: Image.Image, mode: str) -> Image.Image:
    """Convert an image to a mode; Pillow would copy an image that has it."""
    return image if image.mode == mode else image.convert(mode)
