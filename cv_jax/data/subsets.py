"""Parts of a split: slices, balanced subsets, and splits without broken examples."""

import dataclasses
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import tensorflow_datasets as tfds

from cv_jax.data import decode
from cv_jax.data.source import Records, Source
from cv_jax.errors import InputError, one_line


class Subset:
    """The examples of `records` at `indices`, in that order."""

    def __init__(self, records: Records, indices: np.ndarray):
        self.records, self.indices = records, indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int):
        return self.records[int(self.indices[index])]

    def place(self, index: int) -> str:
        return self.records.place(int(self.indices[index]))

    def labels(self, progress: Callable) -> np.ndarray:
        return self.records.labels(progress)[self.indices]


def split_names(split: str) -> list[str]:
    """Return the names of the splits in a string such as `train[:10%]+val`."""
    return [part.strip().partition("[")[0] for part in split.split("+")]


def slices(name: str, split: str, sizes: dict[str, int]) -> list[tuple[str, int, int]]:
    """Return the pieces `(split, start, stop)` of a string such as `train[:10%]+val[5:]`, in TFDS
    syntax.

    Raises:
      InputError: the string is invalid or a split is not in `sizes`.
    """
    try:
        known = {part: SimpleNamespace(num_examples=size) for part, size in sizes.items()}
        pieces = tfds.core.ReadInstruction.from_spec(split).to_absolute(known)
    except (ValueError, KeyError, AssertionError, NotImplementedError) as error:
        raise InputError(
            f"split {split!r} of {name!r}: {one_line(error)}; available splits: {', '.join(sizes)}"
        ) from None
    return [
        (p.splitname, p.from_ or 0, sizes[p.splitname] if p.to is None else p.to) for p in pieces
    ]


def stratified(labels: np.ndarray, seed: int) -> np.ndarray:
    """Return a random order of all examples in which each class is spread evenly.

    In the first n examples, each class has its share of the whole to within one example.

    Args:
      labels: int [N].
      seed: random seed; the order is a function of seed and labels.

    Returns:
      Indices, int [N].
    """
    shuffled = np.random.default_rng(seed).permutation(len(labels))
    shares = np.empty(len(labels))
    for label in np.unique(labels):
        members = np.flatnonzero(labels[shuffled] == label)
        shares[members] = (np.arange(len(members)) + 0.5) / len(members)
    return shuffled[np.argsort(shares, kind="stable")]


def balanced(
    source: Source,
    fraction: float | None,
    per_class: int | None,
    seed: int,
    progress: Callable = lambda loop: loop,
) -> Source:
    """Return a stratified part of a source, or a part with equal counts per class.

    Args:
      source: the source to reduce.
      fraction: share of the examples to keep, or `None`.
      per_class: number of examples to keep per class, or `None`.
      seed: selects the examples; with one seed, a larger part contains every smaller part.
      progress: wraps the loop over the labels.

    Raises:
      InputError: both are given, a value is out of range, or a class has too few examples.
    """
    if fraction is None and per_class is None:
        return source
    if fraction is not None and per_class is not None:
        raise InputError("config.data.fraction and config.data.per_class are both set; keep one")
    if fraction is not None and not 0 < fraction <= 1:
        raise InputError(f"config.data.fraction={fraction} must be above 0 and at most 1")
    if per_class is not None and per_class < 1:
        raise InputError(f"config.data.per_class={per_class} must be at least 1")
    labels = source.records.labels(progress)
    order = stratified(labels, seed)
    if fraction is not None:
        order = order[: round(fraction * len(order))]
    else:
        counts = np.bincount(labels, minlength=source.num_classes)
        if counts.min() < per_class:
            name = (source.classes or range(source.num_classes))[counts.argmin()]
            raise InputError(
                f"config.data.per_class={per_class}: class {name!r} of {source.name} has "
                f"only {counts.min()} examples"
            )
        chosen = [order[labels[order] == label][:per_class] for label in range(source.num_classes)]
        order = np.concatenate(chosen)
    return dataclasses.replace(source, records=Subset(source.records, np.sort(order)))


def without_broken(
    source: Source, threads: int, progress: Callable[[Iterable], Iterable] = lambda loop: loop
) -> tuple[Source, list[str]]:
    """Return the source without unreadable examples, and the reason for each of them.

    Every example is decoded once before the first batch, so batches remain functions of seed and
    step.
    """

    def reason(index):
        try:
            source.example(index)
        except decode.BrokenExample as error:
            return str(error)
        return None

    blocks = [range(i, min(i + 64, len(source))) for i in range(0, len(source), 64)]
    sound, reasons = [], []
    with ThreadPoolExecutor(threads) as pool:
        for block in progress(blocks):
            for index, why in zip(block, pool.map(reason, block), strict=True):
                if why is None:
                    sound.append(index)
                else:
                    reasons.append(why)
    if not reasons:
        return source, []
    indices = np.array(sound, np.int64)
    broken = np.setdiff1d(np.arange(len(source)), indices).tolist()
    part, fingerprint = Subset(source.records, indices), {**source.fingerprint, "broken": broken}
    return dataclasses.replace(source, records=part, fingerprint=fingerprint), reasons
