"""Opening of sources by the name of a dataset and a split; see `source`.

    digits, cifar10, imagenet2012:5.1.0   TFDS datasets in ArrayRecord; see `catalog`
    folder:PATH                           one folder of images per class; see `folder`
    records:PATH                          output of `python -m cv_jax prepare`; see `records`

Opening a source reads no image.
"""

import os
from pathlib import Path

from cv_jax.data.source import Source


def data_folder(setting: str | None) -> Path:
    """Folder of prepared datasets: the setting, else $TFDS_DATA_DIR, else TFDS's default."""
    chosen = setting or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    return Path(chosen).expanduser()


def open_source(name: str, split: str, folder: Path, seed: int = 0) -> Source:
    """Open one split of a dataset.

    Args:
      name: `folder:PATH`, `records:PATH`, or a TFDS name such as `cifar10`, `mnist:3.0.1` or
        `imagenet2012_subset/1pct`; `digits` is embedded and written on first use.
      split: a split, or part of one such as `train[:90%]`.
      folder: folder of prepared TFDS datasets.
      seed: selects the images of a part of a `folder:PATH` split.

    Raises:
      InputError: the dataset, split or label does not exist, a file is missing, or the dataset is
        not prepared; the message then contains the command that prepares it.
    """
    kind, _, path = name.partition(":")
    if kind == "folder":
        from cv_jax.data import folder as images

        return images.open_folder(name, Path(path).expanduser(), split, seed)
    if kind == "records":
        from cv_jax.data import records

        return records.open_records(name, Path(path).expanduser(), split)
    from cv_jax.data import catalog

    return catalog.open_dataset(name, split, folder)
