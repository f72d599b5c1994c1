"""Source: random access to the examples of one split, independent of the storage format.

An example is decoded when its pixels are read.
"""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from cv_jax.data import decode
from cv_jax.errors import InputError, RunError, one_line

PADDING = -1  # after the last class of a sequence


class Records(Protocol):
    """The encoded examples of one split."""

    def __len__(self) -> int: ...

    def __getitem__(
        self, index: int
    ) -> tuple[bytes | Path | np.ndarray | Sequence[int], int | Sequence[int]]:
        """An encoded image, its file, its pixels, uint8 [H, W, C], or a sequence of classes; and
        its label, a class or a sequence of classes."""

    def place(self, index: int) -> str:
        """Description of the location of an example, for messages."""

    def labels(self, progress: Callable) -> np.ndarray:
        """All labels, int [N], without decoding images; −1 for a record that cannot be read.

        Not called for a source of sequences.

        `progress` wraps slow loops.
        """


@dataclasses.dataclass(frozen=True)
class Source:
    """One split of a dataset, or a part of one.

    Attributes:
      name: value of `config.data.name`.
      records: random access to `(encoded image, pixels or sequence, label)`.
      num_classes: number of classes.
      channels: number of channels of every image; 0 if examples are sequences.
      fingerprint: JSON-serialisable identity of the data; equal data have equal fingerprints.
      classes: names of the classes; `None` if unknown.
      notes: lines for the user on what was left out when the split was opened.
      max_pixels: `config.data.max_pixels`; see `decode.open_image`.
      files: name and path of every file of the dataset that the split may read; see `fingerprint`.
      length: longest sequence if the label is a sequence of classes; `None` if it is one class.
      input_length: longest sequence if an example is a sequence of classes; `None` if it is an
        image.
    """

    name: str
    records: Records
    num_classes: int
    channels: int
    fingerprint: dict[str, Any]
    classes: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()
    max_pixels: int = decode.MAX_PIXELS
    files: tuple[tuple[str, Path], ...] = ()
    length: int | None = None
    input_length: int | None = None

    def __len__(self) -> int:
        return len(self.records)

    @property
    def label_shape(self) -> tuple[int, ...]:
        """Shape of the label of one example: () for a class, (length,) for a sequence."""
        return () if self.length is None else (self.length,)

    @property
    def kind(self) -> str:
        """What an example is, and its key in a batch: "image" or "sequence"."""
        return "image" if self.input_length is None else "sequence"

    def read(self, index: int) -> tuple[np.ndarray | decode.Jpeg, int | np.ndarray]:
        """Image uint8 [H, W, C], decoded when its pixels are read, or sequence; and label.

        A sequence is int32 [length], with `PADDING` after its last class.

        Raises:
          BrokenExample: the record or its image is damaged, or the label is out of range.
          InputError: the example has changed since the run read it first; see `digests`.
        """

        def place():
            return f"{self.name}, {self.records.place(index)}"

        try:
            data, label = self.records[index]
            if isinstance(data, Path):
                data = decode.read_file(data, self.max_pixels)
        except (InputError, RunError):  # of `digests`
            raise
        except Exception as error:  # readers of record files raise many types
            reason = getattr(error, "strerror", None) or one_line(error)
            raise decode.BrokenExample(f"{place()}: {reason}") from None
        self._check_range((label,) if self.length is None else label, "label", place)
        if self.length is not None:
            label = _padded(label, self.length)
        if self.input_length is not None:
            self._check_range(data, "class", place)
            return _padded(data, self.input_length), label
        return decode.open_image(data, self.channels, place, self.max_pixels), label

    def _check_range(self, numbers: Sequence[int], what: str, place: Callable[[], str]) -> None:
        for number in numbers:
            if not 0 <= number < self.num_classes:
                raise decode.BrokenExample(
                    f"{place()}: {what} {number} is not in 0…{self.num_classes - 1}"
                )

    def example(self, index: int) -> tuple[np.ndarray, int | np.ndarray]:
        """Decoded image uint8 [H, W, C] or sequence int32 [length], and label."""
        image, label = self.read(index)
        return np.asarray(image), label


def _padded(sequence: Sequence[int], length: int) -> np.ndarray:
    padded = np.full(length, PADDING, np.int32)
    padded[: len(sequence)] = sequence
    return padded


def name_of(source: Source, split: str, index: int) -> str:
    """Return the name of an example: its file below the folder, or its number in the split."""
    records = source.records
    while hasattr(records, "records"):  # a part of a split
        records = records.records
    if not hasattr(records, "root"):
        return f"{split} {index}"
    return source.records.place(index).removeprefix(f"{records.root}/")


def require_images(source: Source, what: str) -> None:
    """Check that the examples are images; `what` begins the message.

    Raises:
      InputError: they are sequences.
    """
    if source.kind != "image":
        raise InputError(f"{what}: the examples of {source.name} are sequences, not images")


def check_classes(train: Source, evaluation: Source) -> None:
    """Check that both splits have the same classes in the same order.

    Raises:
      InputError: the classes differ.
    """
    if train.classes == evaluation.classes:
        return
    ours, theirs = (train.classes or ()), (evaluation.classes or ())
    if set(ours) == set(theirs):
        raise InputError(
            f"config.data.eval_split: the classes of {train.name} are in another order than in the "
            "training split"
        )
    lacking, missing, others = "eval", sorted(set(ours) - set(theirs)), theirs
    if not missing:
        lacking, missing, others = "train", sorted(set(theirs) - set(ours)), ours
    more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
    alike = [other for other in others if other.casefold() == missing[0].casefold()]
    hint = f", which has {alike[0]!r}" if alike else ""
    raise InputError(
        f"config.data.{lacking}_split: class {missing[0]!r}{more} of {train.name} missing{hint}; "
        f"both splits must have the same classes"
    )
