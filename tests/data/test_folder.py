"""Folders of images."""

import numpy as np
import pytest
from PIL import Image

from cv_jax.data import sources
from cv_jax.data.source import check_classes
from cv_jax.errors import InputError


def write(root, tree, size=(6, 5)):
    """Write the images of `{folder: count}`; the red channel is the number of the image."""
    for folder, count in tree.items():
        (root / folder).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            Image.new("RGB", size, (i, 0, 0)).save(root / folder / f"{i:03}.png")
    return root


def opened(root, split, seed=0):
    return sources.open_source(f"folder:{root}", split, None, seed)


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    tree = {"train/cat": 6, "train/dog": 4, "val/cat": 2, "val/dog": 3, "other/cow": 1}
    return write(tmp_path_factory.mktemp("split"), tree)


@pytest.fixture(scope="module")
def flat(tmp_path_factory):
    # One class has the name of a split, as in CIFAR-100.
    return write(tmp_path_factory.mktemp("flat"), {"train": 40, "cat": 20, "dog": 100})


def test_splits_are_subfolders_and_classes_are_sorted(split):
    train, val = opened(split, "train"), opened(split, "val")
    assert train.classes == val.classes == ("cat", "dog")
    assert (train.num_classes, train.channels) == (2, 3)
    assert [train.example(i)[1] for i in range(10)] == [0] * 6 + [1] * 4
    assert [train.example(i)[0][0, 0, 0] for i in range(10)] == [*range(6), *range(4)]
    assert train.example(3)[0].shape == (5, 6, 3)
    assert train.records.place(7) == f"{split}/train/dog/001.png"
    assert len(opened(split, "train+val")) == 15


def test_suffixes_of_any_case_deep_folders_and_other_files(tmp_path):
    write(tmp_path, {"a/deep": 2, "b": 1})
    (tmp_path / "b/000.png").rename(tmp_path / "b/X.PNG")
    for other in (".hidden.png", "notes.txt", "Thumbs.db"):
        (tmp_path / "b" / other).write_text("no image")
    source = opened(tmp_path, "images")
    assert [source.records.place(i).removeprefix(f"{tmp_path}/") for i in range(len(source))] == [
        "a/deep/000.png",
        "a/deep/001.png",
        "b/X.PNG",
    ]


@pytest.mark.parametrize("seed", [0, 7])
def test_class_folders_without_splits_are_split_by_a_seed(flat, seed):
    train, test = opened(flat, "images[:75%]", seed), opened(flat, "images[75%:]", seed)
    assert train.classes == ("cat", "dog", "train")
    np.testing.assert_array_equal(np.bincount(train.records.labels(None)), [15, 75, 30])
    np.testing.assert_array_equal(np.bincount(test.records.labels(None)), [5, 25, 10])
    files = {source.records.place(i) for source in (train, test) for i in range(len(source))}
    assert len(files) == 160
    again = opened(flat, "images[:75%]", seed)
    assert again.records.files == train.records.files
    assert opened(flat, "images[:75%]", seed + 1).records.files != train.records.files


def test_the_fingerprint_depends_on_the_data_and_not_on_the_path(split, tmp_path):
    first = opened(split, "train").fingerprint
    copy = write(tmp_path / "elsewhere", {"train/cat": 6, "train/dog": 4})
    assert opened(copy, "train").fingerprint == first
    assert opened(copy, "train[:50%]").fingerprint == first
    Image.new("RGB", (6, 5), (9, 9, 9)).save(copy / "train/cat/003.png")
    assert opened(copy, "train").fingerprint != first
    (copy / "train/cat/003.png").unlink()
    assert opened(copy, "train").fingerprint != first


def test_errors_are_one_line(split, flat, tmp_path):
    write(tmp_path, {"train/empty": 0, "train/full": 1})
    for root, part, message in [
        (tmp_path / "no", "train", "no does not exist"),
        (tmp_path / "train" / "empty", "train", "contains no folders of images"),
        (tmp_path, "train", "empty contains no images"),
        (split, "test", "split 'test' of .*; available splits: other, train, val"),
        (split, "train[:x]", "available splits: train"),
        (split, "train+other", "the classes of other differ"),
        (flat, "train", r"splits: images; its subfolders are classes: use images\[:90%\]"),
    ]:
        with pytest.raises(InputError, match=message) as caught:
            opened(root, part)
        assert "\n" not in str(caught.value)


def test_both_splits_must_have_the_same_classes(split):
    with pytest.raises(InputError, match="eval_split: class 'cat' and 1 more of .* missing"):
        check_classes(opened(split, "train"), opened(split, "other"))
    check_classes(opened(split, "train"), opened(split, "val"))
