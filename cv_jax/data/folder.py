"""Datasets with one folder of images per class; `layout` describes the folders.

Classes are sorted by name, examples by class and path. A part of a split is a slice of a seeded
random order in which every class is spread evenly:

    train_split="images[:90%]", eval_split="images[90%:]"
"""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cv_jax.data import decode, layout, subsets
from cv_jax.data.source import Source
from cv_jax.errors import InputError
from cv_jax.progress import counted


class FolderRecords:
    """Image files and their labels; files are read on access."""

    def __init__(self, root: Path, files: list[str], labels: np.ndarray):
        self.root, self.files, self._labels = root, files, labels

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Path, int]:
        return self.root / self.files[index], int(self._labels[index])

    def place(self, index: int) -> str:
        return str(self.root / self.files[index])

    def labels(self, progress: Callable) -> np.ndarray:
        return self._labels


def open_folder(name: str, root: Path, split: str, seed: int) -> Source:
    """Open a split, or a part of one, of a folder of images.

    Args:
      name: `folder:PATH`.
      root: the PATH of `name`.
      split: such as `train`, `val[:1000]` or `images[:90%]`.
      seed: selects the images of a part.

    Raises:
      InputError: the folder or split does not exist, the layout of the folder does not fit the
        split, or a class has no images.
    """
    known = [*layout.subfolders(name, root), "images"]
    used = list(dict.fromkeys(part for part, _ in subsets.parts(split, known)))
    found = layout.find(name, root, used)
    files, labels, starts, sizes, checksum = [], [], {}, {}, hashlib.sha256()
    classes, notes = None, [found.note]
    for part in used:
        listed = _list_split(name, root, part, found.folders[part])
        if classes is not None and listed.classes != classes:
            raise InputError(f"split {split!r} of {name!r}: the classes of {part} differ")
        classes, starts[part], sizes[part] = listed.classes, len(files), len(listed.images)
        for file, size in listed.images:
            checksum.update(f"{file}\0{size}\n".encode(errors="surrogateescape"))
        files += [file for file, _ in listed.images]
        labels += listed.labels
        notes += listed.notes
    # Names and sizes identify most datasets without reading files; add the bytes of a few files.
    for i in np.linspace(0, len(files) - 1, 32).astype(int):
        checksum.update(_bytes(root / files[i]))
    labels = np.array(labels, np.int64)
    chosen = []
    for part, start, stop in subsets.slices(name, split, sizes):
        here = np.arange(starts[part], starts[part] + sizes[part])
        if (start, stop) != (0, sizes[part]):
            here = np.sort(here[subsets.stratified(labels[here], seed)[start:stop]])
        chosen.append(here)
    order = np.concatenate([*chosen, np.arange(0)])
    return Source(
        name=name,
        records=FolderRecords(root, [files[i] for i in order], labels[order]),
        num_classes=len(classes),
        channels=3,
        fingerprint={"name": "folder", "splits": sizes, "checksum": checksum.hexdigest()},
        classes=tuple(classes),
        notes=tuple(note for note in notes if note),
        files=tuple((file, root / file) for file in files),
    )


def splits_of(name: str, root: Path) -> list[str]:
    """Return all splits of a folder; arguments and errors as in `layout.find`."""
    return list(layout.find(name, root).folders)


class _Split(NamedTuple):
    """The files of a split, in order; one label per file; see `open_folder`."""

    classes: list[str]
    images: list[tuple[str, int]]
    labels: list[int]
    notes: list[str]


def _list_split(name: str, root: Path, part: str, folder: str) -> _Split:
    """List the images of a split whose class folders are in `root / folder`."""
    classes = layout.subfolders(name, root / folder)
    if len(splits := layout.named_as_splits(classes)) > 1:
        raise InputError(
            f"split {part!r} of {name!r}: {', '.join(splits)} in {root / folder} have the names of "
            f"splits, not of classes; use folder:{root / folder}"
        )
    images, labels, left = [], [], {}
    above = layout.identities(root, folder)
    for label, class_ in enumerate(counted(classes, f"listing {part} of {name}")):
        path = f"{folder}/{class_}" if folder else class_
        found = layout.find_images(root, path, above)
        if not found.images:
            reason = f"; not read: {layout.in_words(found.left)}" if found.left else ""
            raise InputError(f"{name!r}: {root / path} contains no images{reason}")
        images += sorted(found.images)
        labels += [label] * len(found.images)
        layout.add(left, found.left)
    notes = [f"{name}, split {part}: not read: {layout.in_words(left)}"] if left else []
    first = {class_.casefold(): class_ for class_ in reversed(classes)}
    alike = [(first[c.casefold()], c) for c in classes if first[c.casefold()] != c]
    if alike:
        more = f" and {len(alike) - 1} more" if len(alike) > 1 else ""
        pair = " and ".join(alike[0])
        notes.append(f"{name}, split {part}: classes that differ in case only: {pair}{more}")
    return _Split(classes, images, labels, notes)


def _bytes(file: Path) -> bytes:
    """The bytes of a file; a constant for an unreadable file, which is reported when it is used."""
    try:
        return decode.read_file(file)
    except (OSError, ValueError):
        return b"unreadable"
