"""Layout of a folder of images: which folders are splits and which are classes.

    PATH/SPLIT/CLASS/…/IMAGE    a split is a folder that contains folders of images
    PATH/CLASS/…/IMAGE          one split, `images`

The names of the requested splits state the layout: `images` states the second, any other name the
first. A request that contradicts the folders is refused. Without a request, folders that allow both
layouts are refused, unless one of them has the name of a split.
"""

import os
import re
import shlex
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from cv_jax.errors import InputError
from cv_jax.paths import described

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")

# Written by operating systems and file servers; ignored like hidden files.
_SYSTEM = {
    "__macosx",
    "@eadir",
    "$recycle.bin",
    "system volume information",
    "lost+found",
    "thumbs.db",
    "desktop.ini",
}

_SPLIT = "(train|training|trainval|val|valid|validation|dev|eval|evaluation|test|testing)"
_SPLIT_NAME = re.compile(rf"{_SPLIT}([ _-]?(set|data|split|images))?[ _-]?\d*", re.IGNORECASE)
_SPLIT_WORD = re.compile(rf"(?<![a-z]){_SPLIT}(?![a-z])", re.IGNORECASE)

# What is not read: kind → number, and the first path.
Left = dict[str, tuple[int, str]]


class Layout(NamedTuple):
    """
    Attributes:
      folders: name of a split → its folder relative to PATH, which contains the class folders.
      note: one line on the images that belong to no class; "" if there are none.
    """

    folders: dict[str, str]
    note: str


class Found(NamedTuple):
    """
    Attributes:
      images: paths relative to PATH, with `/`, and sizes in bytes.
      left: what is not read.
    """

    images: list[tuple[str, int]]
    left: Left


class _Folder(NamedTuple):
    """
    Attributes:
      name: of a folder in PATH.
      images: number of images directly in the folder; `None` if it cannot be read.
      deep: whether its folders contain images.
    """

    name: str
    images: int | None
    deep: bool


def find(name: str, root: Path, asked: Iterable[str] | None = None) -> Layout:
    """Return the layout of a folder.

    Args:
      name: `folder:PATH`, for messages.
      root: the PATH of `name`.
      asked: names of the requested splits; `None` asks for all splits.

    Raises:
      InputError: the folder contains no images, does not fit the request, or allows both layouts.
    """
    folders = [_look(root, part) for part in subfolders(name, root)]
    beside = sum(_has_suffix(e.name) and not _is_folder(e) for e in _entries(root))
    deep = [folder.name for folder in folders if folder.deep]
    if not deep and not any(folder.images for folder in folders):
        left = {"images outside of folders": (beside, ".")} if beside else {}
        for folder in folders:
            add(left, find_images(root, folder.name).left)
        reason = f"; not read: {in_words(left)}" if left else ""
        raise InputError(
            f"config.data.name: {name!r}: {root} contains no folders of images{reason}"
        )
    if asked is None:
        asked = _all_splits(name, deep)
    plain = [folder.name for folder in folders if folder.images and not folder.deep]
    if "images" in asked and "images" in deep and plain:
        raise InputError(
            f"split 'images' of {name!r} has two meanings: {root / 'images'} contains folders of "
            f"images, and the folders beside it contain images ({_shown(plain)}); if images is "
            f"the split, use folder:{root / 'images'}; if it is a class, rename it"
        )
    if "images" in asked and "images" not in deep:
        _check_flat(name, root, folders, deep)
        unknown = [part for part in asked if part != "images"]
        splits = {"images": ""}
    else:
        unknown = [part for part in asked if part not in deep]
        splits = {part: part for part in deep}
    if unknown:
        raise _unknown(name, root, unknown[0], folders, deep)
    return Layout(splits, _note(name, folders, beside, splits))


def subfolders(name: str, path: Path) -> list[str]:
    """Return the sorted names of the folders in a folder, without hidden ones.

    Raises:
      InputError: the folder does not exist or cannot be read.
    """
    if not path.is_dir():
        raise InputError(f"config.data.name: {name!r}: {path} {described(path)}; give a folder")
    try:
        return sorted(entry.name for entry in _entries(path) if _is_folder(entry))
    except OSError as error:
        raise InputError(f"{name!r}: folder {path}: {error.strerror}") from None


def find_images(root: Path, folder: str, above: tuple = ()) -> Found:
    """Find the images below a folder.

    Args:
      root: paths are relative to this folder.
      folder: the folder, relative to `root`.
      above: identities of the folders above, to find links that lead back to one of them.
    """
    images, left = [], {}
    try:
        here, entries = _identity(root / folder), list(_entries(root / folder))
    except OSError:
        return Found([], {"unreadable folders": (1, folder)})
    if here in above:
        return Found([], {"links to a folder above": (1, folder)})
    for entry in entries:
        path = f"{folder}/{entry.name}"
        try:
            status = entry.stat()
        except OSError:
            kind = "dangling links" if entry.is_symlink() else "unreadable files"
            add(left, {kind: (1, path)})
            continue
        if stat.S_ISDIR(status.st_mode):
            deeper = find_images(root, path, (*above, here))
            images += deeper.images
            add(left, deeper.left)
        elif not stat.S_ISREG(status.st_mode):
            add(left, {"special files": (1, path)})
        elif not _has_suffix(entry.name):
            suffix = os.path.splitext(entry.name)[1]
            add(left, {f"{suffix} files" if suffix else "files without suffix": (1, path)})
        else:
            images.append((path, status.st_size))
    return Found(images, left)


def add(left: Left, more: Left) -> None:
    """Add counts to `left`."""
    for kind, (count, path) in more.items():
        before, first = left.get(kind, (0, path))
        left[kind] = (before + count, min(first, path))


def in_words(left: Left) -> str:
    """The counts as text, such as ".avif files: 3 (first: train/cat/a.avif)"."""
    kinds = sorted(left.items())
    return "; ".join(f"{kind}: {count} (first: {path})" for kind, (count, path) in kinds)


def named_as_splits(names: Iterable[str]) -> list[str]:
    """Return the names that are usual for splits, such as `train` or `val2017`."""
    return [name for name in names if _SPLIT_NAME.fullmatch(name)]


def identities(root: Path, folder: str) -> tuple:
    """Return the identities of `root` and `folder` for `find_images`."""
    return (_identity(root), _identity(root / folder)) if folder else (_identity(root),)


# ---- Decisions


def _all_splits(name: str, deep: list[str]) -> list[str]:
    """Return all splits of a folder without a request."""
    if not deep:
        return ["images"]
    if _split_folders(deep) or deep == ["images"]:
        return deep
    more = ",…" if len(deep) > 4 else ""
    raise InputError(
        f"{name!r} allows two layouts, because folders of images are in {_shown(deep)}; if these "
        f"are splits, add --splits {shlex.quote(','.join(deep[:4]) + more)}; if these are classes, "
        "add --splits images"
    )


def _split_folders(deep: list[str]) -> list[str]:
    """Return which of the folders of folders are splits by their names, such as `my train`."""
    words = [name for name in deep if _SPLIT_WORD.search(name)]
    # One such word alone may belong to a class: "train station".
    return named_as_splits(deep) or (words if len(words) > 1 else [])


def _check_flat(name: str, root: Path, folders: list[_Folder], deep: list[str]) -> None:
    """Check that the folders in PATH can be classes."""
    if splits := _split_folders(deep):
        raise InputError(
            f"split 'images' of {name!r}: {root} contains splits by their names and class folders "
            f"({_shown(splits)}); use these splits, or rename a class that has such a name"
        )
    classes = [folder.name for folder in folders]
    if len(splits := named_as_splits(classes)) > 1:
        raise InputError(
            f"{name!r}: {_shown(splits)} in {root} have the names of splits but contain images "
            "and no class folders; move the images into SPLIT/CLASS folders"
        )
    if len(classes) == 1 and deep:
        raise InputError(
            f"split 'images' of {name!r}: the only folder in {root} is {deep[0]}, and it contains "
            f"folders; use folder:{root / deep[0]}, or the split {deep[0]!r}"
        )


def _unknown(
    name: str, root: Path, split: str, folders: list[_Folder], deep: list[str]
) -> InputError:
    known, hint = deep or ["images"], ""
    inside = [part for part in deep if (root / part / split).is_dir()]
    plain = [folder.name for folder in folders if folder.images]
    if split in [folder.name for folder in folders if folder.images is None]:
        hint = f"; {root / split} cannot be read"
    elif split in plain and (deep or len(named_as_splits(plain)) > 1):
        hint = f"; {root / split} contains images but no class folders"
    elif not deep:
        hint = "; its subfolders are classes: use images[:90%] and images[90%:]"
    elif inside and not _split_folders(deep):
        hint = f"; did you mean folder:{root / inside[0]}?"
    elif not _split_folders(deep):
        hint = "; if its subfolders are classes, use images[:90%] and images[90%:]"
    return InputError(
        f"unknown split {split!r} of {name!r}; available splits: {', '.join(known)}{hint}"
    )


def _note(name: str, folders: list[_Folder], beside: int, splits: dict[str, str]) -> str:
    """Return one line on the images that are left out."""
    left = {"PATH": beside} if beside else {}
    for folder in folders:
        if "" not in splits.values() and (folder.images or not folder.deep):
            left[folder.name] = folder.images
    if not left:
        return ""
    form = "CLASS" if "" in splits.values() else "SPLIT/CLASS"
    counts = ", ".join(f"{part} ({_counted(count)})" for part, count in sorted(left.items()))
    return f"{name}: left out, because not in PATH/{form}/: {counts}"


def _counted(images: int | None) -> str:
    if images is None:
        return "cannot be read"
    return f"{images or 'no'} image{'' if images == 1 else 's'}"


def _shown(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


# ---- Entries of a folder


def _look(root: Path, folder: str) -> _Folder:
    path, images, inside = root / folder, 0, []
    try:
        above = identities(root, folder)
        if above[0] == above[1]:  # a link to PATH
            return _Folder(folder, 0, False)
        for entry in _entries(path):
            if _is_folder(entry):
                inside.append(entry.name)
            else:
                images += _has_suffix(entry.name)
    except OSError:
        return _Folder(folder, None, False)
    return _Folder(folder, images, any(_contains_images(path / part, above) for part in inside))


def _contains_images(path: Path, above: tuple) -> bool:
    """Whether an image is below a folder; the search ends at the first image."""
    try:
        here, deeper = _identity(path), []
        if here in above:
            return False
        for entry in _entries(path):
            if _is_folder(entry):
                deeper.append(entry.name)
            elif _has_suffix(entry.name):
                return True
    except OSError:
        return False
    return any(_contains_images(path / part, (*above, here)) for part in deeper)


def _entries(path: Path) -> Iterable[os.DirEntry]:
    """The entries of a folder, without hidden ones and those of operating systems."""
    with os.scandir(path) as entries:
        for entry in entries:
            if not entry.name.startswith(".") and entry.name.lower() not in _SYSTEM:
                yield entry


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself, or into an unreadable folder
        return False


def _has_suffix(name: str) -> bool:
    return name.lower().endswith(SUFFIXES)


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino
