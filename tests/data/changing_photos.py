"""A folder of photos that tests change, and the batches of a run on it."""

import os

import numpy as np
from PIL import Image

from cv_jax.data import pipeline

COUNT = 80  # the checksum of the metadata reads 32 of the images, but not `CHANGED`
CHANGED = "train/a/01.bmp"


def write(folder):
    """Write `COUNT` images to train on and as many others, in two classes; return the folder."""
    draw = np.random.default_rng(0)
    for split in ("train", "val"):
        for name in ("a", "b"):
            (folder / split / name).mkdir(parents=True)
            for i in range(COUNT // 2):
                pixels = draw.integers(0, 256, (6, 6, 3), np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{i:02}.bmp")
    return folder


def replace(file):
    """Change a pixel; size and time stay."""
    state, content = file.stat(), bytearray(file.read_bytes())
    content[-1] ^= 255
    file.write_bytes(content)
    os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))


def exchange(first, second):
    """Exchange two files with their times."""
    first.rename(first.with_suffix(".x"))
    second.rename(first)
    first.with_suffix(".x").rename(second)


def batches_of(source):
    return pipeline.TrainBatches(
        pipeline.Images(source, ()), (), seed=0, batch_size=8, rows=np.arange(8), total_steps=20
    )
