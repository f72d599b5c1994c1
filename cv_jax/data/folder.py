"""Datasets with one folder of images per class.

    folder:PATH with PATH/train/CLASS/…/IMAGE and PATH/val/CLASS/…/IMAGE
        Splits are named by the folders. Classes are sorted by name, examples by class and path.

    folder:PATH with PATH/CLASS/IMAGE
        One split, `images`. Parts of it are stratified by class:
        train_split="images[:90%]", eval_split="images[90%:]".

A part of a split is a slice of a seeded random order in which every class is spread evenly.
"""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from cv_jax.data import subsets
from cv_jax.data.source import Source
from cv_jax.errors import InputError
from cv_jax.progress import counted

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")


class FolderRecords:
    """Image files and their labels; files are read on access."""

    def __init__(self, root: Path, files: list[str], labels: np.ndarray):
        self.root, self.files, self._labels = root, files, labels

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[bytes, int]:
        return (self.root / self.files[index]).read_bytes(), int(self._labels[index])

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
      InputError: the folder or split does not exist, or a class has no images.
    """
    known = splits_of(name, root)
    flat = known == ["images"]
    used = dict.fromkeys(subsets.split_names(split))
    if unknown := [part for part in used if part not in known]:
        hint = "; its subfolders are classes: use images[:90%] and images[90%:]" if flat else ""
        raise InputError(
            f"unknown split {unknown[0]!r} of {name!r}; available splits: {', '.join(known)}{hint}"
        )
    files, labels, starts, sizes, checksum = [], [], {}, {}, hashlib.sha256()
    classes = None
    for part in used:
        here = "" if flat else part
        found = _subfolders(root / here)
        if classes is not None and found != classes:
            raise InputError(f"split {split!r} of {name!r}: the classes of {part} differ")
        classes, starts[part] = found, len(files)
        for label, class_ in enumerate(counted(classes, f"listing {part} of {name}")):
            listed = sorted(_images(root, os.path.join(here, class_)))
            if not listed:
                raise InputError(f"{name!r}: {root / here / class_} contains no images")
            for file, size in listed:
                checksum.update(f"{file}\0{size}\n".encode())
            files += [file for file, _ in listed]
            labels += [label] * len(listed)
        sizes[part] = len(files) - starts[part]
    # Names and sizes identify most datasets without reading files; add the bytes of a few files.
    for i in np.linspace(0, len(files) - 1, 32).astype(int):
        checksum.update((root / files[i]).read_bytes())
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
    )


def splits_of(name: str, root: Path) -> list[str]:
    """Return the splits of a folder: its subfolders, or `images` if the subfolders contain images.

    Raises:
      InputError: the folder does not exist or has no subfolders.
    """
    if not root.is_dir():
        raise InputError(f"config.data.name: {name!r}: folder {root} does not exist")
    folders = _subfolders(root)
    if not folders:
        raise InputError(f"config.data.name: {name!r}: {root} contains no folders of images")
    flat = any(_is_image(entry) for folder in folders for entry in os.scandir(root / folder))
    return ["images"] if flat else folders


def _subfolders(path: Path) -> list[str]:
    return sorted(e.name for e in os.scandir(path) if e.is_dir() and not e.name.startswith("."))


def _is_image(entry: os.DirEntry) -> bool:
    hidden = entry.name.startswith(".")
    return not hidden and entry.name.lower().endswith(SUFFIXES) and entry.is_file()


def _images(root: Path, folder: str) -> list[tuple[str, int]]:
    """List the images below a folder: paths relative to the root, with `/`, and sizes in bytes."""
    found = []
    for entry in os.scandir(root / folder):
        path = f"{folder}/{entry.name}"
        if _is_image(entry):
            found.append((path, entry.stat().st_size))
        elif entry.is_dir() and not entry.name.startswith("."):
            found += _images(root, path)
    return found
