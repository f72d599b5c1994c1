"""Sources: opening of datasets, and errors."""

import dataclasses
import json
import shutil

import pytest

from cv_jax.data import sources
from cv_jax.data.source import Source, check_classes
from cv_jax.errors import InputError


def test_attributes_of_a_source(data_dir):
    source = sources.open_source("digits", "train", data_dir)
    assert (len(source), source.num_classes, source.channels) == (1438, 10, 1)
    image, label = source.example(5)
    assert (image.shape, image.dtype.name, type(label)) == ((8, 8, 1), "uint8", int)
    assert source.fingerprint["splits"] == {"train": 1438, "test": 359}


def test_parts_of_splits(data_dir):
    part = sources.open_source("digits", "train[:10%]", data_dir)
    whole = sources.open_source("digits", "train", data_dir)
    assert len(part) == 144
    assert part.example(7)[1] == whole.example(7)[1]


def test_the_fingerprint_depends_on_the_metadata_files(data_dir, tmp_path):
    first = sources.open_source("digits", "train", data_dir).fingerprint
    shutil.copytree(data_dir / "digits", tmp_path / "digits")
    assert sources.open_source("digits", "test", tmp_path).fingerprint == first
    info = tmp_path / "digits" / "1.0.0" / "dataset_info.json"
    info.write_text(info.read_text().replace("carried by", "taken from"))
    assert sources.open_source("digits", "train", tmp_path).fingerprint != first


@pytest.mark.parametrize(
    ("name", "split", "message"),
    [
        ("cifar1", "train", "unknown dataset 'cifar1'; did you mean cifar10"),
        ("digit", "train", "did you mean digits"),
        ("digits", "tran", "available splits: train, test"),
        ("digits", "train[:z]", "available splits: train, test"),
        ("digits:9.0.0", "train", "cannot be loaded at version 9.0.0"),
        ("a b", "train", "config.data.name: 'a b'"),
        ("", "train", "config.data.name: ''"),
    ],
)
def test_errors_are_one_line(data_dir, name, split, message):
    with pytest.raises(InputError) as caught:
        sources.open_source(name, split, data_dir)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_error_for_an_unprepared_dataset_contains_the_command(tmp_path):
    with pytest.raises(InputError) as caught:
        sources.open_source("mnist", "train", tmp_path)
    command = f"python -m cv_jax prepare mnist --data-dir {tmp_path}"
    assert command in str(caught.value)


def test_the_folder_is_the_setting_or_the_environment_or_the_default(monkeypatch, tmp_path):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    assert sources.data_folder("/there").as_posix() == "/there"
    assert sources.data_folder(None) == tmp_path
    monkeypatch.delenv("TFDS_DATA_DIR")
    assert sources.data_folder(None).name == "tensorflow_datasets"


def foreign(data_dir, folder, file_format, *others):
    """Copy the digits as a dataset without builder code, with these formats in its metadata."""
    version = folder / "letters" / "1.0.0"
    shutil.copytree(data_dir / "digits" / "1.0.0", version)
    for path in version.glob("digits*"):
        path.rename(version / path.name.replace("digits", "letters"))
    info = json.loads((version / "dataset_info.json").read_text())
    info |= {"name": "letters", "fileFormat": file_format, "alternativeFileFormats": list(others)}
    (version / "dataset_info.json").write_text(json.dumps(info))
    return version


def test_the_error_for_another_format_contains_the_command(data_dir, tmp_path):
    version = foreign(data_dir, tmp_path, "tfrecord")
    with pytest.raises(InputError, match="is stored as tfrecord") as caught:
        sources.open_source("letters", "train", tmp_path)
    command = f"tfds convert_format --dataset_version_dir={version} --out_file_format=array_record"
    assert str(caught.value).endswith(command)


def test_a_dataset_converted_in_place_is_read(data_dir, tmp_path):
    foreign(data_dir, tmp_path, "tfrecord", "array_record")
    source = sources.open_source("letters", "test", tmp_path)
    assert (len(source), source.example(3)[0].shape) == (359, (8, 8, 1))


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (("cat", "dog"), None),
        (("dog", "cat"), "in another order"),
        (("cat", "dog", "emu"), "class 'emu' of animals missing"),
        (None, "class 'cat' and 1 more of animals missing"),
    ],
)
def test_both_splits_need_the_same_classes_in_the_same_order(classes, message):
    train = Source("animals", [], 2, 3, {}, ("cat", "dog"))
    other = dataclasses.replace(train, classes=classes)
    if message is None:
        check_classes(train, other)
    else:
        with pytest.raises(InputError, match=message):
            check_classes(train, other)
