"""Limits of decoding: pixels, memory, and files that no image needs."""

import os
import struct
import subprocess
import sys
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from encoded_images import JPEG, encoded, memory, opened, picture, pixels_of

from cv_jax.config.fields import FIELDS
from cv_jax.data import decode

KINDS = [
    ("RGB", "JPEG"),
    ("L", "JPEG"),
    ("CMYK", "JPEG"),
    ("RGB", "PNG"),
    ("RGB", "BMP"),
    ("L", "GIF"),
    ("RGB", "WEBP"),
    ("RGB", "TIFF"),
    ("RGB", "PPM"),
]


@pytest.mark.parametrize(("mode", "kind"), KINDS)
@pytest.mark.parametrize("limit", [1199, 600, 599, 1])
def test_one_limit_for_all_formats(mode, kind, limit):
    file = encoded(picture(30, 40, mode), kind)
    assert opened(file, max_pixels=1200).shape == (30, 40, 3)
    with pytest.raises(decode.BrokenExample) as caught:
        opened(file, max_pixels=limit)
    assert str(caught.value) == (
        f"here: 1,200 pixels, more than the limit of {limit:,} (config.data.max_pixels; "
        "--max-pixels of prepare and predict)"
    )


def large(kind):
    """A file of a few hundred bytes whose header has the largest size of the format, or more than
    twice the limit."""
    file = bytearray(encoded(picture(8, 8), kind.split()[0], progressive=kind.endswith("ive")))
    if kind.startswith("JPEG"):
        at = decode._frame(bytes(file)).position
        file[at : at + 4] = struct.pack(">HH", 30000, 30000)
    elif kind == "PNG":
        file[16:24] = struct.pack(">II", 30000, 30000)
        file[29:33] = struct.pack(">I", zlib.crc32(file[12:29]))
    elif kind == "BMP":
        file[18:26] = struct.pack("<II", 30000, 30000)
    elif kind == "GIF":
        file[6:10] = struct.pack("<HH", 30000, 30000)
    elif kind == "WEBP":
        file[26:30] = struct.pack("<HH", 16383, 16383)
    elif kind == "TIFF":
        for tag in (256, 257):  # width and height
            at = file.index(struct.pack("<HHII", tag, 4, 1, 8))
            file[at : at + 12] = struct.pack("<HHII", tag, 4, 1, 30000)
    else:
        file[:] = b"P6 30000 30000 255\n" + b"x" * 99
    return bytes(file)


@pytest.mark.parametrize(
    "kind", ["JPEG", "JPEG progressive", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM"]
)
def test_a_size_above_the_default_is_refused_before_decoding(kind, monkeypatch):
    def decoded(*arguments, **options):
        pytest.fail("the image was decoded")

    monkeypatch.setattr(decode, "_convert", decoded)
    monkeypatch.setattr(simplejpeg, "decode_jpeg", decoded)
    with pytest.raises(decode.BrokenExample) as caught:
        pixels_of(large(kind))
    pixels = 16383**2 if kind == "WEBP" else 30000**2
    assert f"here: {pixels:,} pixels, more than the limit of 178,956,970 (" in str(caught.value)


def test_a_jpeg_has_the_size_that_its_decoder_finds():
    """A marker without length in the header: libjpeg skips it, and finds the first size."""
    real, small = encoded(picture(300, 300), "JPEG", quality=5), encoded(picture(8, 8), "JPEG")
    file = b"\xff\xd8\xff\xd0" + struct.pack(">H", len(real)) + real[2:] + small[2:]
    assert pixels_of(file).shape == (300, 300, 3)
    with pytest.raises(decode.BrokenExample, match="90,000 pixels, more than the limit of 10,000"):
        np.asarray(opened(file, max_pixels=10_000))


def tiled(side):
    """A TIFF of 16×16 pixels in one tile of side×side, about a thousand times smaller than it."""
    tile = zlib.compress(bytes(side * side * 3), 9)
    tags = [(256, 16), (257, 16), (258, 8), (259, 8), (262, 2), (277, 3), (284, 1)]
    tags += [(322, side), (323, side), (324, 8 + 2 + 12 * 11 + 4), (325, len(tile))]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + tile


def test_the_tiles_of_a_tiff_count():
    """libtiff decodes a tile as a whole, also where the image ends before it."""
    assert opened(tiled(64), max_pixels=64 * 64).shape == (16, 16, 3)
    with pytest.raises(decode.BrokenExample, match="4,096 pixels, more than the limit of 4,095"):
        opened(tiled(64), max_pixels=64 * 64 - 1)


MEASURE = """
import io, sys, zlib
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import numpy as np
import test_decode_limits as test
from PIL import Image
from cv_jax.data import decode

SIDE = 3000  # the kernel counts the memory of a process only to some megabytes
image = Image.fromarray(np.kron(np.arange(100, dtype=np.uint8).reshape(10, 10, 1),
                                np.ones((SIDE // 10, SIDE // 10, 3), np.uint8)))
other = Image.new("RGB", (SIDE, SIDE))
frames = dict(save_all=True, append_images=[other])
deep = Image.fromarray(np.asarray(image)[..., 0].astype(np.uint16))
cases = {
    "JPEG": test.encoded(image, "JPEG", subsampling=0),
    "progressive": test.encoded(image, "JPEG", subsampling=0, progressive=True),
    "CMYK": test.encoded(image.convert("CMYK"), "JPEG", progressive=True),
    "PNG": test.encoded(image.convert("RGBA"), "PNG"),
    "palette": test.encoded(image.convert("P"), "PNG"),
    "16 bits": test.encoded(deep, "PNG"),
    "BMP": test.encoded(image, "BMP"),
    "GIF": test.encoded(image, "GIF", **frames),
    "WEBP": test.encoded(image, "WEBP", lossless=True, method=0),
    "animated WEBP": test.encoded(image, "WEBP", method=0, **frames),
    "TIFF": test.encoded(image, "TIFF", compression="tiff_lzw"),
    "tile": test.tiled(SIDE),
    "PPM": test.encoded(image, "PPM"),
}
for name, data in cases.items():
    for channels in (3, 4):
        before = test.memory("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")
        np.asarray(decode.open_image(data, channels, str))
        print(round((test.memory("VmHWM") - before) * 1024 / SIDE**2, 1), name, channels)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of the memory cannot be reset")
def test_the_memory_of_decoding_is_bounded():
    words = [sys.executable, "-c", MEASURE, str(Path(__file__).parent)]
    # Memory that the process keeps after one image would hide the need of the next.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
    done = subprocess.run(words, capture_output=True, text=True, check=True, env=environment)
    measured = {line.split(" ", 1)[1]: float(line.split()[0]) for line in done.stdout.splitlines()}
    assert len(measured) == 13 * 2
    assert 18 < max(measured.values()) <= decode.BYTES_PER_PIXEL, measured


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "broken JPEG"])
def test_threads_share_the_limit(kind, monkeypatch):
    """Of images of 900 pixels, two fit into a limit of 2,000."""
    file = encoded(picture(30, 30), kind.split()[-1])
    now, most = [], []

    def watched(function):
        def called(*arguments, **options):
            now.append(1)
            most.append(len(now))
            time.sleep(0.02)
            now.pop()
            return function(*arguments, **options)

        return called

    def refused(*_, **__):
        raise ValueError("as for a broken file")

    monkeypatch.setattr(decode, "_convert", watched(decode._convert))
    decoder = refused if kind.startswith("broken") else simplejpeg.decode_jpeg
    monkeypatch.setattr(simplejpeg, "decode_jpeg", watched(decoder))
    with ThreadPoolExecutor(8) as pool:
        jobs = [pool.submit(lambda: np.asarray(opened(file, max_pixels=2000))) for _ in range(12)]
        assert {job.result(timeout=60).shape for job in jobs} == {(30, 30, 3)}
    assert max(most) == 2


def test_files_that_no_image_needs_are_refused_unread(tmp_path):
    """A sparse file of a terabyte takes no room on the disk."""
    file = tmp_path / "x.jpg"
    file.write_bytes(JPEG)
    assert decode.read_file(file) == JPEG
    os.truncate(file, 2**40)
    with pytest.raises(ValueError, match="1,099,511,627,776 bytes, more than an image of 9 pixels"):
        decode.read_file(file, 9)
    os.mkfifo(tmp_path / "pipe.jpg")
    for path in (tmp_path / "pipe.jpg", Path("/dev/zero"), tmp_path):
        with pytest.raises((ValueError, OSError), match="not a file|Is a directory"):
            decode.read_file(path)


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of the memory cannot be reset")
def test_refused_files_take_no_memory():
    Path("/proc/self/clear_refs").write_text("5")  # reset the peak: earlier tests took more
    before = memory("VmRSS")
    for kind in ("WEBP", "GIF", "TIFF", "PNG", "JPEG progressive", "BMP", "PPM"):
        with pytest.raises(decode.BrokenExample):
            pixels_of(large(kind))
    assert memory("VmHWM") - before < 100 * 1024


def test_the_limit_is_the_default_of_the_field():
    assert FIELDS["data.max_pixels"].default == decode.MAX_PIXELS
