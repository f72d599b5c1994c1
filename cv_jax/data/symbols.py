"""Sequences of symbols to copy, reverse or sort, as TFDS datasets without images.

The source of an example is a sequence of letters, the target the same letters in another order. The
three datasets have the same sources. All sources of a split differ. The letters of a source, in any
order, decide its split, so no source and no target of the test split is a source or target of the
training split.
"""

import zlib
from collections.abc import Callable, Iterator

import numpy as np
import tensorflow_datasets as tfds

SYMBOLS = "abcdefghijklmnopqrst"
LENGTHS = (3, 10)  # fewest and most symbols of a source
COUNTS = {"train": 10000, "test": 1000}  # examples
TEST_SHARE = 10  # one in this many multisets of letters belongs to the test split

Symbols = tuple[int, ...]

# Name of a dataset → source → target.
TARGETS: dict[str, Callable[[Symbols], Symbols]] = {
    "copy": lambda source: source,
    "reverse": lambda source: source[::-1],
    "sort": lambda source: tuple(sorted(source)),
}


def is_test(source: Symbols) -> bool:
    """Whether a sequence belongs to the test split: a function of its letters, not their order."""
    return zlib.crc32(bytes(sorted(source))) % TEST_SHARE == 0


def sources(split: str) -> Iterator[Symbols]:
    """Yield the sources of a split, "train" or "test", as numbers of symbols; always the same.

    The length of a draw is uniform, and so is each symbol. A draw of the other split, or one that
    was drawn before, is left out.
    """
    rng, seen = np.random.default_rng(list(COUNTS).index(split)), set()
    while len(seen) < COUNTS[split]:
        length = rng.integers(LENGTHS[0], LENGTHS[1] + 1)
        source = tuple(rng.integers(0, len(SYMBOLS), length).tolist())
        if source not in seen and is_test(source) == (split == "test"):
            seen.add(source)
            yield source


class _Sequences(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Source and target of a dataset of `TARGETS`; splits `train` and `test`."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        def letters():
            return tfds.features.Sequence(tfds.features.ClassLabel(names=list(SYMBOLS)))

        return tfds.core.DatasetInfo(
            builder=self,
            description=f"Sequences of letters to {self.name}.",
            features=tfds.features.FeaturesDict({"source": letters(), "target": letters()}),
            supervised_keys=("source", "target"),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(split) for split in COUNTS}

    def _generate_examples(self, split: str):
        for i, source in enumerate(sources(split)):
            yield i, {"source": list(source), "target": list(TARGETS[self.name](source))}


class Copy(_Sequences):
    """Sequences of letters, each with itself."""

    name = "copy"


class Reverse(_Sequences):
    """Sequences of letters, each with its reverse."""

    name = "reverse"


class Sort(_Sequences):
    """Sequences of letters, each with its letters in alphabetical order."""

    name = "sort"
