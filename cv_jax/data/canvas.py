"""Digits at random places of a noisy canvas, as a TFDS dataset: the place of the object is known.

Made from the embedded digits (see `digits`) for analyses whose truth must be known, such as
pointing of saliency maps. Training and test images have disjoint source digits.
"""

from typing import NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from cv_jax.data import digits

SIDE = 64  # of the canvas in pixels
SIZES = (18, 28)  # smallest and largest side of the digit
COPIES = {"train": 6, "test": 2}  # placements of every source digit
NOISE = (60.0, 35.0)  # mean and standard deviation of the background


class Example(NamedTuple):
    """One image.

    Attributes:
      image: uint8 [64, 64].
      label: the digit.
      box: (top, left, height, width) of the digit in pixels.
    """

    image: np.ndarray
    label: int
    box: tuple[int, int, int, int]


def examples(split: str) -> list[Example]:
    """Return all images of a split, "train" or "test"; always the same."""
    images, labels = digits.load_arrays()
    test = split == "test"
    chosen = np.flatnonzero(digits.is_test(labels) == test)
    rng = np.random.default_rng(int(test))
    return [_place(rng, images[i, :, :, 0], int(labels[i])) for i in np.tile(chosen, COPIES[split])]


def _place(rng: np.random.Generator, digit: np.ndarray, label: int) -> Example:
    size = int(rng.integers(SIZES[0], SIZES[1] + 1))
    top, left = (int(x) for x in rng.integers(0, SIDE - size + 1, 2))
    canvas = rng.normal(*NOISE, (SIDE, SIDE))
    enlarged = Image.fromarray(digit).resize((size, size), Image.Resampling.BICUBIC)
    ink = np.asarray(enlarged, np.float64) / 255
    part = canvas[top : top + size, left : left + size]
    canvas[top : top + size, left : left + size] = (1 - ink) * part + 255 * ink
    image = np.clip(np.round(canvas), 0, 255).astype(np.uint8)
    return Example(image, label, (top, left, size, size))


class DigitsCanvas(tfds.core.GeneratorBasedBuilder):
    """64×64 grey images of one digit each, with its box; splits `train` and `test`."""

    name = "digits_canvas"
    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self,
            description="Digits at random places of a noisy 64x64 canvas.",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(SIDE, SIDE, 1), encoding_format="png"),
                    "label": tfds.features.ClassLabel(num_classes=10),
                    "box": tfds.features.Tensor(shape=(4,), dtype=np.int32),
                }
            ),
            supervised_keys=("image", "label"),
            homepage="https://archive.ics.uci.edu/dataset/80",
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(split) for split in COPIES}

    def _generate_examples(self, split: str):
        for i, example in enumerate(examples(split)):
            yield (
                i,
                {
                    "image": Image.fromarray(example.image, mode="L"),
                    "label": example.label,
                    "box": np.array(example.box, np.int32),
                },
            )
