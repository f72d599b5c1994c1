"""Sources: random access to the decoded examples of a dataset.

Every source is a TFDS dataset stored as ArrayRecord, read without TensorFlow.
"""

import difflib
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds

from cv_jax.errors import InputError


class Source(NamedTuple):
    """One split of a dataset.

    Attributes:
      name: what `config.data.name` says.
      examples: random access to `{image_key: uint8 [H, W, C], label_key: int, …}`.
      image_key: the key of the image in an example.
      label_key: the key of the label.
      num_classes: classes of the label.
      channels: channels of every image.
      fingerprint: what identifies the data: name, version, split sizes, and a SHA-256 of the files
        that describe them. JSON-able; equal where the data are equal.
    """

    name: str
    examples: Sequence[dict[str, Any]]
    image_key: str
    label_key: str
    num_classes: int
    channels: int
    fingerprint: dict[str, Any]

    def __len__(self) -> int:
        return len(self.examples)

    def example(self, index: int) -> tuple[np.ndarray, int]:
        """Decoded image uint8 [H, W, C] and its label."""
        example = self.examples[index]
        return example[self.image_key], int(example[self.label_key])


def data_folder(setting: str | None) -> Path:
    """Where prepared datasets lie: the setting, else $TFDS_DATA_DIR, else TFDS's own default."""
    chosen = setting or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    return Path(chosen).expanduser()


def open_source(name: str, split: str, folder: Path) -> Source:
    """Opens one split of a TFDS dataset.

    Args:
      name: `digits` (embedded: written on first use), or any TFDS name such as `cifar10`,
        `mnist:3.0.1` or `imagenet2012_subset/1pct`.
      split: a split, or part of one such as `train[:90%]`.
      folder: where prepared datasets lie.

    Raises:
      InputError: no such dataset, split or label; or it is not prepared, and then the message is
        the command that prepares it.
    """
    if name.partition(":")[0].partition("/")[0] == "digits":
        from cv_jax.data import digits

        folder = digits.ensure(folder)
    try:
        builder = tfds.builder(name, data_dir=folder)
    except tfds.core.DatasetNotFoundError:
        known = ["digits", *tfds.list_builders(with_community_datasets=False)]
        near = difflib.get_close_matches(name, known, n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else "see the TFDS catalog for names"
        raise InputError(f"config.data.name: no dataset is called {name!r}; {hint}") from None
    except (ValueError, AssertionError, RuntimeError, OSError) as error:
        raise InputError(f"config.data.name: {name!r}: {_one_line(error)}") from None
    _check_prepared(name, builder, folder)
    try:
        examples = builder.as_data_source(split)
    except ValueError as error:
        splits = ", ".join(builder.info.splits)
        raise InputError(
            f"split {split!r} of {name!r}: {_one_line(error)}; it has {splits}"
        ) from None
    image_key, label_key = _keys(name, builder)
    features = builder.info.features
    return Source(
        name=name,
        examples=examples,
        image_key=image_key,
        label_key=label_key,
        num_classes=features[label_key].num_classes,
        channels=features[image_key].shape[-1],
        fingerprint=_fingerprint(builder),
    )


def _check_prepared(name: str, builder: tfds.core.DatasetBuilder, folder: Path) -> None:
    if not builder.info.splits:
        raise InputError(
            f"dataset {name!r} is not prepared in {folder}; prepare it with: "
            f"pip install tensorflow-cpu && tfds build {name} --file_format=array_record "
            f"--data_dir={folder}"
        )
    if builder.info.file_format != tfds.core.FileFormat.ARRAY_RECORD:
        raise InputError(
            f"dataset {name!r} in {folder} is stored as {builder.info.file_format.value}, "
            f"array_record is needed; convert it with: pip install tensorflow-cpu && "
            f"tfds convert_format --dataset_version_dir={builder.data_path} "
            f"--out_dir=NEW_FOLDER/{builder.data_path.relative_to(folder)} "
            f"--out_file_format=array_record"
        )


def _keys(name: str, builder: tfds.core.DatasetBuilder) -> tuple[str, str]:
    features = builder.info.features
    images = [k for k, f in features.items() if isinstance(f, tfds.features.Image)]
    labels = [k for k, f in features.items() if isinstance(f, tfds.features.ClassLabel)]
    if not images or not labels:
        raise InputError(
            f"dataset {name!r} cannot be classified: it has the features {', '.join(features)}, "
            f"and an image and a class label are needed"
        )
    # A dataset with several labels says by its supervised keys which one is meant.
    image, label = builder.info.supervised_keys or (images[0], labels[0])
    return (image if image in images else images[0], label if label in labels else labels[0])


def _fingerprint(builder: tfds.core.DatasetBuilder) -> dict[str, Any]:
    checksum = hashlib.sha256()
    for file in ("dataset_info.json", "features.json"):
        checksum.update((Path(builder.data_path) / file).read_bytes())
    return {
        "name": builder.info.full_name,
        "version": str(builder.version),
        "splits": {name: split.num_examples for name, split in sorted(builder.info.splits.items())},
        "checksum": checksum.hexdigest(),
    }


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
