"""Image files of a command line: files, folders, and patterns such as `photos/**/*.png`."""

import glob
import os
from collections.abc import Callable
from pathlib import Path

from cv_jax.data import layout
from cv_jax.errors import InputError
from cv_jax.paths import described


def find(arguments: list[str], report: Callable[[str], None]) -> list[Path]:
    """Return the files of all arguments, each once, in the order of the arguments.

    A folder stands for the images in it and in its subfolders, sorted by path. A pattern stands for
    the files and folders that it matches, sorted.

    Args:
      arguments: paths and patterns. A path that exists is not a pattern.
      report: called with one sentence for each folder with files that are not images.

    Raises:
      InputError: a path does not exist, a pattern matches nothing, or a folder has no images.
    """
    files: dict[Path, None] = {}
    for text in arguments:
        paths = [text]
        if not os.path.lexists(text):
            paths = sorted(glob.glob(text, recursive=True)) if glob.has_magic(text) else []
            if not paths:
                pattern = " has this pattern" if glob.has_magic(text) else ""
                raise InputError(f"{text or repr(text)}: no such file or folder{pattern}")
        for path in paths:
            files.update(dict.fromkeys(_files(path, report)))
    return list(files)


def _files(path: str, report: Callable[[str], None]) -> list[Path]:
    if os.path.isfile(path):
        return [Path(path)]
    if not os.path.isdir(path):
        raise InputError(f"{path} {described(Path(path))}; give files and folders")
    found = layout.find_images(Path(path), ".")
    left = f"not read: {layout.in_words(found.left)}" if found.left else ""
    if not found.images:
        suffixes = ", ".join(layout.SUFFIXES)
        raise InputError(f"{path} contains no images ({suffixes}){left and f'; {left}'}")
    if left:
        report(f"{path}: {left}")
    return sorted(Path(path, image) for image, _ in found.images)
