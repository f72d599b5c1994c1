"""Opening sources: a name and a split to random access to their examples; see `source`.

    digits, cifar10, imagenet2012:5.1.0   TFDS datasets in ArrayRecord; see `catalog`
    folder:PATH                           a folder of images for each class; see `folder`
    records:PATH                          what `python -m cv_jax prepare` re-encoded; see `records`

Opening one reads no image.
"""

import os
from pathlib import Path

from cv_jax.data.source import Source


def data_folder(setting: str | None) -> Path:
    """Where prepared datasets lie: the setting, else $TFDS_DATA_DIR, else TFDS's own default."""
    chosen = setting or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    return Path(chosen).expanduser()


def open_source(name: str, split: str, folder: Path, seed: int = 0) -> Source:
    """Opens one split of a dataset.

    Args:
      name: `folder:PATH`, `records:PATH`, or a TFDS name such as `cifar10`, `mnist:3.0.1` or
        `imagenet2012_subset/1pct`; `digits` is embedded and written on first use.
      split: a split, or part of one such as `train[:90%]`.
      folder: where prepared TFDS datasets lie.
      seed: decides which images a part of a folder's split holds.

    Raises:
      InputError: no such dataset, split or label, a file of it is missing, or it is not prepared,
        and then the message is the command that prepares it.
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
