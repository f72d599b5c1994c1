"""Strips of several handwritten digits with the sequence of the digits, as a TFDS dataset.

Made from the embedded digits (see `digits`). Digits, number of digits, spacing, scale, slant,
place, brightness and background noise are random. Training and test strips have disjoint source
digits; `longer` has test digits in strips with more digits than any strip of the other splits.
"""

import functools
from typing import NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from cv_jax.data import digits

HEIGHT, WIDTH = 16, 112  # of a strip in pixels
COUNTS = {"train": 16000, "test": 1000, "longer": 1000}  # strips
LENGTHS = {"train": (2, 5), "test": (2, 5), "longer": (6, 7)}  # fewest and most digits
SIZES = (11.0, 14.5)  # smallest and largest height of the digits of a strip
VARIATION = 0.05  # largest relative difference of a digit from this height
SLANT = 0.25  # largest shift of a row over its distance from the middle
MARGIN = 8  # most columns without ink before the first digit
GAPS = (1, 6)  # smallest and largest number of columns without ink between two digits
NOISE = ((20.0, 90.0), (5.0, 25.0))  # ranges of mean and standard deviation of the background
INK = (180.0, 255.0)  # range of the brightness of the ink
_VISIBLE = 0.15  # share of ink of a column that counts as a column with ink


class Example(NamedTuple):
    """One strip.

    Attributes:
      image: uint8 [16, 112].
      digits: the digits from left to right.
      sources: index of each digit in the arrays of `digits.load_arrays`.
      spans: first column, and the column after the last, of each digit.
    """

    image: np.ndarray
    digits: tuple[int, ...]
    sources: tuple[int, ...]
    spans: tuple[tuple[int, int], ...]


def example(split: str, index: int) -> Example:
    """Return one strip of a split; always the same."""
    images, labels, members = _arrays(split)
    rng = np.random.default_rng((list(COUNTS).index(split), index))
    low, high = LENGTHS[split]
    chosen = rng.choice(members, rng.integers(low, high + 1))
    image, spans = _draw(rng, [images[i] for i in chosen])
    return Example(
        image, tuple(int(labels[i]) for i in chosen), tuple(int(i) for i in chosen), spans
    )


@functools.cache
def _arrays(split: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return ink in 0…1 [N, 10, 10] with an empty border, labels [N], and indices of a split."""
    images, labels = digits.load_arrays()
    members = np.flatnonzero(digits.is_test(labels) == (split != "train"))
    ink = images[..., 0].astype(np.float32) / 255
    return np.pad(ink, ((0, 0), (1, 1), (1, 1))), labels, members


def _draw(rng: np.random.Generator, sources: list[np.ndarray]):
    """Return the strip, uint8 [16, 112], and the columns of each digit."""
    while True:  # until the digits fit
        size = rng.uniform(*SIZES)
        drawn = [_transformed(rng, ink, size) for ink in sources]
        gaps = rng.integers(GAPS[0], GAPS[1] + 1, len(drawn) - 1)
        free = WIDTH - sum(ink.shape[1] for ink in drawn) - int(gaps.sum())
        if free >= 0:
            break
    left, canvas, spans = int(rng.integers(0, min(free, MARGIN) + 1)), np.zeros((HEIGHT, WIDTH)), []
    for ink, gap in zip(drawn, [*gaps, 0], strict=True):
        height, width = ink.shape
        top = int(rng.integers(0, HEIGHT - height + 1))
        canvas[top : top + height, left : left + width] = ink
        spans.append((left, left + width))
        left += width + int(gap)
    mean, deviation = (rng.uniform(*limits) for limits in NOISE)
    background = rng.normal(mean, deviation, canvas.shape)
    mixed = (1 - canvas) * background + canvas * rng.uniform(*INK)
    return np.clip(np.round(mixed), 0, 255).astype(np.uint8), tuple(spans)


def _transformed(rng: np.random.Generator, ink: np.ndarray, size: float) -> np.ndarray:
    """Return a digit with random scale and slant, without columns and rows without ink."""
    scale = size * rng.uniform(1 - VARIATION, 1 + VARIATION) / (len(ink) - 2)
    slant = rng.uniform(-SLANT, SLANT)
    height = int(np.ceil(len(ink) * scale))
    width = int(np.ceil((1 + SLANT) * height))
    middle = (width / 2, height / 2)
    # PIL maps a place of the result to a place of the source.
    x = (1 / scale, slant / scale, len(ink) / 2 - (middle[0] + slant * middle[1]) / scale)
    y = (0.0, 1 / scale, len(ink) / 2 - middle[1] / scale)
    turned = Image.fromarray(ink, mode="F").transform(
        (width, height), Image.Transform.AFFINE, (*x, *y), Image.Resampling.BICUBIC
    )
    result = np.clip(np.asarray(turned, np.float64), 0, 1)
    rows, columns = (np.flatnonzero(result.max(axis=a) > _VISIBLE) for a in (1, 0))
    return result[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1][:HEIGHT]


class Numbers(tfds.core.GeneratorBasedBuilder):
    """16×112 grey strips of 2 to 5 digits; splits `train`, `test` and `longer` (6 or 7 digits)."""

    name = "numbers"
    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self,
            description="16x112 strips of handwritten digits with the sequence of the digits.",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(HEIGHT, WIDTH, 1), encoding_format="png"),
                    "sequence": tfds.features.Sequence(tfds.features.ClassLabel(num_classes=10)),
                }
            ),
            supervised_keys=("image", "sequence"),
            homepage="https://archive.ics.uci.edu/dataset/80",
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(split) for split in COUNTS}

    def _generate_examples(self, split: str):
        for i in range(COUNTS[split]):
            strip = example(split, i)
            image = Image.fromarray(strip.image, mode="L")
            yield i, {"image": image, "sequence": list(strip.digits)}
