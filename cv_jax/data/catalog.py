"""TFDS datasets stored as ArrayRecord, read without TensorFlow."""

import contextlib
import hashlib
import re
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.proto import tf_example_pb2

from cv_jax.data import fingerprint
from cv_jax.data.embedded import EMBEDDED, ensure
from cv_jax.data.source import Source
from cv_jax.errors import InputError, did_you_mean, one_line
from cv_jax.progress import counted


class CatalogRecords:
    """The examples of a split, with encoded images.

    `image` and `label` name features; `sequences` are the names of those that are sequences of
    classes.
    """

    def __init__(
        self,
        builder: tfds.core.DatasetBuilder,
        split: str,
        image: str,
        label: str,
        sequences: Collection[str] = (),
    ):
        raw = tfds.decode.DeserializeMethod.RAW_BYTES
        self.examples = builder.as_data_source(split, deserialize_method=raw)
        self.image, self.label, self.sequences = image, label, sequences
        self.files = [
            (file.filename, file.skip, file.examples_in_shard)
            for file in builder.info.splits[split].file_instructions
        ]

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> tuple[bytes | tuple[int, ...], int | tuple[int, ...]]:
        features = self._features(index)
        if self.image in self.sequences:
            return self._classes(features, self.image), self._classes(features, self.label)
        return features[self.image].bytes_list.value[0], self._classes(features, self.label)

    def place(self, index: int) -> str:
        for file, skip, size in self.files:
            if index < size:
                return f"record {skip + index} of {file}"
            index -= size
        raise IndexError(index)

    def labels(self, progress: Callable) -> np.ndarray:
        return np.array([self._class_at(i) for i in progress(range(len(self)))], np.int64)

    def longest(self, progress: Callable) -> dict[str, int]:
        """Largest number of classes of the sequences of each of `sequences`."""
        lengths = dict.fromkeys(self.sequences, 0)
        for i in progress(range(len(self))):
            with contextlib.suppress(Exception):  # readers of record files raise many types
                features = self._features(i)
                for name in self.sequences:
                    lengths[name] = max(lengths[name], len(features[name].int64_list.value))
        return lengths

    def _features(self, index: int):
        return tf_example_pb2.Example.FromString(self.examples[index]).features.feature

    def _class_at(self, index: int) -> int:
        try:
            return self._classes(self._features(index), self.label)
        except Exception:  # readers of record files raise many types
            return -1

    def _classes(self, features, name: str) -> int | tuple[int, ...]:
        values = features[name].int64_list.value
        return tuple(values) if name in self.sequences else int(values[0])


def open_dataset(name: str, split: str, folder: Path, target: str | None = None) -> Source:
    """Open one split of a TFDS dataset; arguments and errors as in `sources.open_source`."""
    builder = load_builder(name, folder)
    _check_prepared(name, builder, folder)
    features = builder.info.features
    image, label = _keys(name, builder, target)
    sequences = {key for key in (image, label) if _is_sequence(features[key])}
    classes = features[label].feature if label in sequences else features[label]
    channels = 0 if image in sequences else features[image].shape[-1]
    if image in sequences:
        if features[image].feature.names != classes.names:
            raise InputError(f"dataset {name!r}: the classes of {image} and {label} differ")
    elif channels not in (1, 3, 4) or features[image].np_dtype == np.float32:
        raise InputError(
            f"dataset {name!r}: images of {channels} channels and type "
            f"{features[image].np_dtype} are not supported; allowed: 1, 3 or 4 integer channels"
        )
    try:
        files = builder.info.splits[split].file_instructions
        records = CatalogRecords(builder, split, image, label, sequences) if files else ()
    except (ValueError, KeyError, AssertionError, NotImplementedError) as error:
        splits = ", ".join(builder.info.splits)
        raise InputError(
            f"split {split!r} of {name!r}: {one_line(error)}; available splits: {splits}"
        ) from None
    missing = [file.filename for file in files if not Path(file.filename).is_file()]
    if missing:
        raise InputError(
            f"dataset {name!r}: {len(missing)} of {len(files)} files of split {split!r} are "
            f"missing; the first is {missing[0]}"
        )
    lengths = dict.fromkeys(sequences, 0)
    if sequences and files:
        lengths = records.longest(lambda loop: counted(loop, "reading sequences"))
    return Source(
        name=name,
        records=records,
        num_classes=classes.num_classes,
        channels=channels,
        fingerprint=_fingerprint(builder) | ({} if target is None else {"target": target}),
        classes=tuple(classes.names),
        files=tuple(fingerprint.named(_files(builder))),
        length=lengths.get(label),
        input_length=lengths.get(image),
    )


def load_builder(name: str, folder: Path, **options) -> tfds.core.DatasetBuilder:
    """Return the TFDS builder of a dataset; an embedded one is written on first use.

    Raises:
      InputError: the name or version of the dataset is unknown, or the dataset cannot be loaded.
    """
    plain = name.partition(":")[0].partition("/")[0]
    # A name with a namespace, such as huggingface:mnist, would ask the host of the namespace.
    version = name.partition(":")[2]
    if not re.fullmatch(r"\w+", plain) or not re.fullmatch(r"(\d+|\*)(\.(\d+|\*))*|", version):
        raise InputError(
            f"config.data.name: {name!r} is not the name of a dataset; allowed are TFDS "
            "names, folder:PATH and records:PATH"
        )
    if plain in EMBEDDED:
        folder = ensure(plain, folder)
    try:
        return tfds.builder(name, data_dir=folder, **options)
    except tfds.core.DatasetNotFoundError:
        known = [*EMBEDDED, *tfds.list_builders(with_community_datasets=False)]
        hint = did_you_mean(name, known, count=3) or "; see the TFDS catalog for names"
        raise InputError(f"config.data.name: unknown dataset {name!r}{hint}") from None
    except (ValueError, AssertionError, RuntimeError, OSError) as error:
        raise InputError(f"config.data.name: {name!r}: {one_line(error)}") from None


def _check_prepared(name: str, builder: tfds.core.DatasetBuilder, folder: Path) -> None:
    if not builder.info.splits:
        raise InputError(
            f"dataset {name!r} is not prepared in {folder}; prepare it with: "
            f"pip install tensorflow-cpu && python -m cv_jax prepare {name} --data-dir {folder}"
        )
    wanted, found = tfds.core.FileFormat.ARRAY_RECORD, builder.info.available_file_formats()
    if wanted not in found:
        # TFDS's converter imports the last two packages; it writes beside the old files.
        raise InputError(
            f"dataset {name!r} in {folder} is stored as {builder.info.file_format.value}, "
            f"required: array_record; convert it with: "
            f"pip install tensorflow-cpu apache-beam mlcroissant && tfds convert_format "
            f"--dataset_version_dir={builder.data_path} --out_file_format=array_record"
        )
    if builder.info.file_format != wanted:
        builder.info.set_file_format(wanted, override=True, override_if_initialized=True)


def _keys(name: str, builder: tfds.core.DatasetBuilder, target: str | None) -> tuple[str, str]:
    """Return the names of the image and of the target.

    A dataset without images, whose supervised keys are two sequences of classes, is one of
    sequences: the first is in the place of the image.
    """
    features = builder.info.features
    images = [k for k, f in features.items() if isinstance(f, tfds.features.Image)]
    labels = [k for k, f in features.items() if isinstance(f, tfds.features.ClassLabel)]
    sequences = [k for k, f in features.items() if _is_sequence(f)]
    if target is not None and target not in labels + sequences:
        allowed = ", ".join(labels + sequences) or "it has none"
        raise InputError(
            f"config.data.target: {target!r} is not a class label or a sequence of class labels of "
            f"{name!r}{did_you_mean(target, labels + sequences) or f'; allowed: {allowed}'}"
        )
    pair = builder.info.supervised_keys or ()
    if not images and len(pair) == 2 and all(key in sequences for key in pair):
        return pair[0], target or pair[1]
    if not images or not (labels or target):
        hint = f"; learn a sequence with config.data.target={sequences[0]}" if sequences else ""
        raise InputError(
            f"dataset {name!r} has the features {', '.join(features)}; classification needs an "
            f"image and a class label{hint}"
        )
    # With several labels, the supervised keys select the label.
    image, label = builder.info.supervised_keys or (images[0], labels[0] if labels else target)
    image = image if image in images else images[0]
    return image, target or (label if label in labels else labels[0])


def _is_sequence(feature: Any) -> bool:
    is_sequence = isinstance(feature, tfds.features.Sequence)
    return is_sequence and isinstance(feature.feature, tfds.features.ClassLabel)


def _files(builder: tfds.core.DatasetBuilder) -> list[Path]:
    """Return the record files of all splits, in order."""
    splits = sorted(builder.info.splits.items())
    return [Path(file) for _, split in splits for file in split.filepaths]


def _fingerprint(builder: tfds.core.DatasetBuilder) -> dict[str, Any]:
    """Name, version, split sizes, and the SHA-256 of the metadata files."""
    checksum = hashlib.sha256()
    for file in ("dataset_info.json", "features.json"):
        checksum.update((Path(builder.data_path) / file).read_bytes())
    return {
        "name": builder.info.full_name,
        "version": str(builder.version),
        "splits": {name: split.num_examples for name, split in sorted(builder.info.splits.items())},
        "checksum": checksum.hexdigest(),
    }
