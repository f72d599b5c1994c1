"""Opening of sources by the name of a dataset and a split; see `source`.

    digits, cifar10, imagenet2012:5.1.0   TFDS datasets in ArrayRecord; see `catalog`
    folder:PATH                           one folder of images per class; see `folder`
    records:PATH                          output of `python -m cv_jax prepare`; see `records`

Opening a source reads no image.
"""

import os
from collections.abc import Callable
from pathlib import Path

from cv_jax.data.source import Source
from cv_jax.errors import InputError
from cv_jax.paths import require_utf8


def data_folder(setting: str | None) -> Path:
    """Folder of prepared datasets: the setting, else $TFDS_DATA_DIR, else TFDS's default.

    Raises:
      InputError: the setting is empty, such as an unset variable of a shell, or not valid UTF-8.
    """
    if setting is not None and not setting.strip():
        raise InputError(f"folder of prepared datasets {setting!r}: the name is empty")
    chosen = setting or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    folder = Path(chosen).expanduser()
    require_utf8(folder, "config.data.dir")
    return folder


def open_source(
    name: str, split: str, folder: Path, seed: int = 0, target: str | None = None
) -> Source:
    """Open one split of a dataset.

    Args:
      name: `folder:PATH`, `records:PATH`, or a TFDS name such as `cifar10`, `mnist:3.0.1` or
        `imagenet2012_subset/1pct`; embedded ones are written on first use.
      split: a split, or part of one such as `train[:90%]`.
      folder: folder of prepared TFDS datasets.
      seed: selects the images of a part of a `folder:PATH` split.
      target: feature of a TFDS dataset to learn, a class or a sequence of classes; `None`: its
        class label.

    Raises:
      InputError: the dataset, split or label does not exist, a file is missing, or the dataset is
        not prepared; the message then contains the command that prepares it.
    """
    opener = SOURCES.get(name.partition(":")[0])
    if opener is None:
        # Imported on first use, as below.
        from cv_jax.data.catalog import open_dataset

        return open_dataset(name, split, folder, target)
    if target is not None:
        raise InputError(f"config.data.target={target}: {name} has one label and no other features")
    return opener(name, split, folder, seed)


# Imported on first use: a run needs the readers of one kind only.


def _open_folder(name: str, split: str, folder: Path, seed: int) -> Source:
    from cv_jax.data.folder import open_folder

    return open_folder(name, _path(name), split, seed)


def _open_records(name: str, split: str, folder: Path, seed: int) -> Source:
    from cv_jax.data.records import open_records

    return open_records(name, _path(name), split)


def _path(name: str) -> Path:
    return Path(name.partition(":")[2]).expanduser()


# Kind (the name up to ":") → function with the first four arguments of `open_source`. Any other
# name is a TFDS dataset.
SOURCES: dict[str, Callable[[str, str, Path, int], Source]] = {
    "folder": _open_folder,
    "records": _open_records,
}
