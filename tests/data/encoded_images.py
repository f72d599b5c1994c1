"""Images in the bytes of a file, for the tests of decoding."""

import io
import re
from pathlib import Path

import numpy as np
from PIL import Image

from cv_jax.data import decode

R = np.random.default_rng(0)


def memory(name):  # "VmRSS": now, "VmHWM": at the peak; in KiB
    return int(re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])


def encoded(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def picture(height, width, mode="RGB"):
    channels = len(Image.new(mode, (1, 1)).getbands())
    coarse = R.integers(0, 256, (height // 5 + 1, width // 5 + 1, channels), np.uint8)
    pixels = np.kron(coarse, np.ones((5, 5, 1), np.uint8))[:height, :width]
    return Image.fromarray(pixels.squeeze(-1) if channels == 1 else pixels, mode)


def opened(data, channels=3, **limit):
    return decode.open_image(data, channels, lambda: "here", **limit)


def pixels_of(data, channels=3):
    return np.asarray(opened(data, channels))


JPEG = encoded(picture(64, 64), "JPEG")
