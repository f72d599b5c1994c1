"""What a source is: random access to the examples of one split, whatever it is stored as.

An example is decoded when its pixels are read.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from cv_jax.data import decode
from cv_jax.errors import InputError


class Records(Protocol):
    """The examples of one split, not decoded."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> tuple[bytes | np.ndarray, int]:
        """An encoded image, or its pixels, uint8 [H, W, C]; and its label."""

    def place(self, index: int) -> str:
        """Where the example lies, in words."""

    def labels(self, progress: Callable) -> np.ndarray:
        """All labels, int [N]; decodes no image. `progress` wraps a loop that takes long."""


@dataclasses.dataclass(frozen=True)
class Source:
    """One split of a dataset, or a part of one.

    Attributes:
      name: what `config.data.name` says.
      records: random access to `(encoded image or pixels, label)`.
      num_classes: classes of the label.
      channels: channels of every image.
      fingerprint: what identifies the data: JSON-able, and equal where the data are equal.
      classes: their names, where the source has any.
    """

    name: str
    records: Records
    num_classes: int
    channels: int
    fingerprint: dict[str, Any]
    classes: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.records)

    def read(self, index: int) -> tuple[np.ndarray | decode.Jpeg, int]:
        """Image uint8 [H, W, C], decoded when its pixels are read, and its label.

        Raises:
          BrokenExample: the record or the image in it is damaged, or its label is no class.
        """

        def place():
            return f"{self.name}, {self.records.place(index)}"

        try:
            data, label = self.records[index]
        except Exception as error:  # readers of record files raise many kinds
            raise decode.BrokenExample(f"{place()}: {one_line(error)}") from None
        if not 0 <= label < self.num_classes:
            raise decode.BrokenExample(
                f"{place()}: label {label} is not in 0…{self.num_classes - 1}"
            )
        return decode.open_image(data, self.channels, place), label

    def example(self, index: int) -> tuple[np.ndarray, int]:
        """Decoded image uint8 [H, W, C] and its label."""
        image, label = self.read(index)
        return np.asarray(image), label


def check_classes(train: Source, evaluation: Source) -> None:
    """Makes sure that a label means the same class in both splits.

    Raises:
      InputError: the splits have other classes.
    """
    ours, theirs = train.classes, evaluation.classes
    if ours == theirs:
        return
    lacking, missing = "eval", sorted(set(ours) - set(theirs))
    if not missing:
        lacking, missing = "train", sorted(set(theirs) - set(ours))
    others = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
    raise InputError(
        f"config.data.{lacking}_split: {train.name} has no class {missing[0]!r}{others} there; "
        f"both splits must have the same classes"
    )


def one_line(error: Exception) -> str:
    """The error's message without line ends, not too long."""
    return " ".join(str(error).split())[:300] or type(error).__name__
