"""Parts of a split: slices, balanced subsets, and splits without broken examples."""

import dataclasses
import re
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


def parts(split: str, known: Iterable[str]) -> list[tuple[str, str]]:
    """Return name and slice of each part of a string such as `train[:10%]+my val`.

    Args:
      split: the string.
      known: names that may contain any characters; other names end at `[` or `+`.
    """
    names = "|".join(map(re.escape, sorted(known, key=len, reverse=True)))
    pattern = re.compile(rf"\s*({names}|[^+\[]*?)\s*(\[[^\]]*\])?\s*(\+|$)")
    found, start, more = [], 0, "+"
    while more:
        match = pattern.match(split, start)
        if match is None:
            return [*found, (split[start:], "")]
        start, more = match.end(), match[3]
        found.append((match[1], match[2] or ""))
    return found


def slices(name: str, split: str, sizes: dict[str, int]) -> list[tuple[str, int, int]]:
    """Return the pieces `(split, start, stop)` of a string such as `train[:10%]+val[5:]`, in TFDS
    syntax.

    Raises:
      InputError: the string is invalid or a split is not in `sizes`.
    """
    # TFDS allows letters, digits, _ and - in names; other names are replaced while it parses.
    stand_ins = {
        part: part if re.fullmatch(r"[\w-]+", part) else f"{'x' * max(map(len, sizes))}-{i}"
        for i, part in enumerate(sizes)
    }
    names = {stand_in: part for part, stand_in in stand_ins.items()}
    try:
        known = {stand_ins[part]: SimpleNamespace(num_examples=n) for part, n in sizes.items()}
        spec = "+".join(stand_ins.get(part, part) + slice_ for part, slice_ in parts(split, sizes))
        pieces = tfds.core.ReadInstruction.from_spec(spec).to_absolute(known)
    except (ValueError, KeyError, AssertionError, NotImplementedError) as error:
        reason = one_line(error)
        for stand_in, part in names.items():
            reason = reason.replace(stand_in, part)
        raise InputError(
            f"split {split!r} of {name!r}: {reason}; available splits: {', '.join(sizes)}"
        ) from None
    named = [(names[p.splitname], p.from_ or 0, p.to) for p in pieces]
    return [(part, start, sizes[part] if stop is None else stop) for part, start, stop in named]


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
      InputError: both are given, a value is out of range, a class has too few examples, or
        `per_class` is given and the labels are sequences, whose part is random.
    """
    if fraction is None and per_class is None:
        return source
    if fraction is not None and per_class is not None:
        raise InputError("config.data.fraction and config.data.per_class are both set; keep one")
    if fraction is not None and not 0 < fraction <= 1:
        raise InputError(f"config.data.fraction={fraction} must be above 0 and at most 1")
    if per_class is not None and per_class < 1:
        raise InputError(f"config.data.per_class={per_class} must be at least 1")
    if source.length is not None and per_class is not None:
        raise InputError(
            f"config.data.per_class={per_class}: a label of {source.name} is a sequence of "
            "classes; use config.data.fraction"
        )
    sequences = source.length is not None
    labels = np.zeros(len(source), int) if sequences else source.records.labels(progress)
    order = stratified(labels, seed)
    if fraction is not None:
        order = order[: round(fraction * len(order))]
    else:
        counts = np.bincount(labels[labels >= 0], minlength=source.num_classes)
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

    Raises:
      InputError: a class loses its last example.
    """

    def read(index):
        try:
            return source.example(index)[1], None
        except decode.BrokenExample as error:
            return None, str(error)

    blocks = [range(i, min(i + 64, len(source))) for i in range(0, len(source), 64)]
    sound, labels, reasons = [], [], []
    with ThreadPoolExecutor(threads) as pool:
        for block in progress(blocks):
            for index, (label, why) in zip(block, pool.map(read, block), strict=True):
                if why is None:
                    sound.append(index)
                    labels.append(label)
                else:
                    reasons.append(why)
    if not reasons:
        return source, []
    check_no_class_is_lost(source, labels, reasons[0])
    indices = np.array(sound, np.int64)
    broken = np.setdiff1d(np.arange(len(source)), indices).tolist()
    part, fingerprint = Subset(source.records, indices), {**source.fingerprint, "broken": broken}
    return dataclasses.replace(source, records=part, fingerprint=fingerprint), reasons


def check_no_class_is_lost(source: Source, kept: Iterable[int], reason: str) -> None:
    """Check that every class of a source has an example that can be read.

    A class may occur in many sequences, so sources of sequences are not checked.

    Args:
      source: the source with all its examples.
      kept: labels of the examples that can be read.
      reason: why an example cannot be read, for the message.

    Raises:
      InputError: a class has examples, and none of them can be read.
    """
    if source.length is not None:
        return
    labels = source.records.labels(lambda loop: loop)
    valid = labels[(labels >= 0) & (labels < source.num_classes)]
    lost = np.setdiff1d(valid, np.fromiter(kept, np.int64))
    if len(lost):
        name = source.classes[lost[0]] if source.classes else str(lost[0])
        others = f" (and of {len(lost) - 1} other classes)" if len(lost) > 1 else ""
        raise InputError(
            f"no example of class {name!r}{others} of {source.name} can be read, so it cannot be "
            f"skipped; the first reason: {reason}"
        )
