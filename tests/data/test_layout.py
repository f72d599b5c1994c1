"""Which folders of a tree are splits and classes, what is left out, and what is refused."""

import fcntl
import os

import numpy as np
import pytest

from cv_jax import __main__ as program
from cv_jax.data import folder, layout, sources
from cv_jax.errors import InputError


def fill(root, tree):
    """Write `{folder: count}` files with the name and the order of images, but no pixels."""
    for name, count in tree.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            (root / name / f"{i:02}.png").write_bytes(f"{name} {i}".encode())
    return root


def opened(root, split):
    return sources.open_source(f"folder:{root}", split, None, 7)


def all_splits(root):
    return folder.splits_of(f"folder:{root}", root)


SPLITS = {"train/cat": 3, "train/dog": 2, "val/cat": 1, "val/dog": 1}
BESIDE = {"train": 1, "test": 4, "figures": 2, "docs": 0}


def test_images_beside_class_folders_are_named_and_left_out(tmp_path):
    alone = fill(tmp_path / "alone", SPLITS)
    path = fill(tmp_path / "path", {**SPLITS, **BESIDE, ".": 1})
    note = (
        f"folder:{path}: left out, because not in PATH/SPLIT/CLASS/: PATH (1 image), docs (no "
        "images), figures (2 images), test (4 images), train (1 image)"
    )
    for split, size in (("train", 5), ("val", 2), ("train[:50%]+val", 4)):
        found, expected = opened(path, split), opened(alone, split)
        assert (len(found), found.classes, found.notes) == (size, ("cat", "dog"), (note,))
        assert found.records.files == expected.records.files
        assert found.fingerprint == expected.fingerprint
        assert expected.notes == ()


@pytest.mark.parametrize("beside", [{name: n} for name, n in BESIDE.items()])
def test_what_is_beside_splits_does_not_turn_them_into_classes(tmp_path, beside):
    fill(tmp_path, {**SPLITS, **beside})
    assert all_splits(tmp_path) == ["train", "val"]
    with pytest.raises(InputError, match="class folders .train, val.; use these splits"):
        opened(tmp_path, "images[:90%]")


@pytest.mark.parametrize(
    ("tree", "split", "classes", "sizes"),
    [
        # One split, `images`; a folder in a class folder belongs to the class.
        ({"cat": 3, "dog": 2}, "images", ("cat", "dog"), [3, 2]),
        ({"cat/a": 3, "cat/b/c": 1, "dog/b": 2}, "images", ("cat", "dog"), [4, 2]),
        ({"cat": 3, "cat/a": 1, "dog": 2}, "images", ("cat", "dog"), [4, 2]),
        # One class has the name of a split.
        ({"train": 3, "car/a": 1, "bus": 2}, "images", ("bus", "car", "train"), [2, 1, 3]),
        ({"train station/a": 1, "home/a": 2}, "images", ("home", "train station"), [2, 1]),
        # A split of any name, also `images`.
        ({"cat/a": 3, "dog/b": 2}, "cat", ("a",), [3]),
        ({"images/cat": 3, "images/dog": 2}, "images", ("cat", "dog"), [3, 2]),
        ({"images/cat": 3, "masks/cat": 2}, "images", ("cat",), [3]),
        ({"my train/a": 10, "my train/b": 10, "my val/a": 1}, "my train[:90%]", ("a", "b"), [9, 9]),
        ({"a+b/x": 4, "c[1]/x": 2, "c/x": 9}, " a+b[:50%] + c[1]", ("x",), [4]),
    ],
)
def test_the_split_states_the_layout(tmp_path, tree, split, classes, sizes):
    source = opened(fill(tmp_path, tree), split)
    assert source.classes == classes
    np.testing.assert_array_equal(np.bincount(source.records.labels(None)), sizes)


@pytest.mark.parametrize(
    ("tree", "split", "message"),
    [
        (
            {"train/cat": 1, "figures": 2},
            "images",
            "contains splits by their names and class folders (train);",
        ),
        ({"my train/a": 1, "my val/a": 1}, "images", "(my train, my val); use these splits"),
        ({"train": 3, "test": 2}, "images", "test, train in PATH have the names of splits but"),
        ({"train": 3, "test": 2}, "train", "PATH/train contains images but no class folders"),
        ({"train/a": 3, "test": 2}, "test", "PATH/test contains images but no class folders"),
        ({"p/train/a": 3, "p/val/a": 2}, "images", "the only folder in PATH is p, and it contains"),
        ({"p/train/a": 3, "p/val/a": 2}, "train", "did you mean folder:PATH/p?"),
        ({"p/train/a": 3, "p/val/a": 2}, "p", "train, val in PATH/p have the names of splits, not"),
        ({"images/a": 3, "cat": 2}, "images", "has two meanings: PATH/images contains folders of"),
        ({"cat/a": 3, "dog": 2}, "train", "if its subfolders are classes, use images[:90%] and"),
        ({"a b/x": 3}, "a b[:x]", "available splits: a b"),
        (SPLITS, "train+", "unknown split '' of"),
        (SPLITS, "train+images", "class folders (train, val); use these splits"),
        (SPLITS, "__MACOSX", "available splits: train, val"),
        (
            {"a": 0, ".": 2},
            "images",
            "no folders of images; not read: images outside of folders: 2",
        ),
    ],
)
def test_a_contradiction_is_refused_in_one_line(tmp_path, tree, split, message):
    with pytest.raises(InputError) as caught:
        opened(fill(tmp_path, tree), split)
    assert message.replace("PATH", str(tmp_path)) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_prepare_asks_for_the_splits_of_a_tree_that_allows_two_layouts(tmp_path, capsys):
    fill(tmp_path / "p", {"cat/a": 1, "dog/a": 1, "figures": 2})
    arguments = ["prepare", f"folder:{tmp_path}/p", "--to", str(tmp_path / "out")]
    assert program.main(arguments) == 2
    assert capsys.readouterr().err == (
        f"error: 'folder:{tmp_path}/p' allows two layouts, because folders of images are in cat, "
        "dog; if these are splits, add --splits cat,dog; if these are classes, add --splits "
        "images\n"
    )
    assert all_splits(fill(tmp_path / "q", {"my train/a": 1, "my val/a": 1})) == [
        "my train",
        "my val",
    ]
    assert all_splits(fill(tmp_path / "r", {"cat": 1, "dog": 1})) == ["images"]
    assert all_splits(fill(tmp_path / "s", {"images/cat": 1, "images/dog": 1})) == ["images"]
    fill(tmp_path / "t", {**SPLITS, "test/unknown": 2})
    arguments[1] = f"folder:{tmp_path}/t"
    assert program.main(arguments) == 2
    assert "the classes of test and train differ; choose splits of" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_prepare_waits_for_no_other_prepare(tmp_path, capsys):
    fill(tmp_path / "p", SPLITS)
    out = tmp_path / "out"
    out.mkdir()
    held = os.open(out, os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    assert program.main(["prepare", f"folder:{tmp_path}/p", "--to", str(out)]) == 2
    os.close(held)
    message = f"error: --to {out} is in use by another prepare; wait for its end\n"
    assert capsys.readouterr().err == message
    assert not list(out.iterdir())


def test_what_is_not_read_is_counted_by_kind(tmp_path):
    fill(tmp_path, SPLITS)
    for name in ("a.avif", "b.avif", "c.jp2", "d.JPG_", "e.jpe", "README"):
        (tmp_path / "train" / "dog" / name).write_text("x")
    for name in (".hidden.png", "Thumbs.db", "desktop.ini"):
        (tmp_path / "train" / "dog" / name).write_text("x")
    for ignored in ("__MACOSX/train/cat", ".ipynb_checkpoints", "train/cat/.ipynb_checkpoints"):
        fill(tmp_path, {ignored: 1})
    os.mkfifo(tmp_path / "train" / "dog" / "pipe.png")
    for link, target in (
        ("train/cat/gone.png", "nowhere"),
        ("train/cat/me.png", "me.png"),
        ("train/cat/up", ".."),
        ("train/cat/root", tmp_path),
        ("self", "."),
        ("holdout", tmp_path / "val"),
        ("val/cat/more", tmp_path / "train" / "dog"),
    ):
        (tmp_path / link).symlink_to(target)
    train, val = opened(tmp_path, "train"), opened(tmp_path, "val")
    assert len(train) == 5
    assert train.notes[1] == (
        f"folder:{tmp_path}, split train: not read: .JPG_ files: 1 (first: train/dog/d.JPG_); "
        ".avif files: 2 (first: train/dog/a.avif); .jp2 files: 1 (first: train/dog/c.jp2); "
        ".jpe files: 1 (first: train/dog/e.jpe); dangling links: 2 (first: train/cat/gone.png); "
        "files without suffix: 1 (first: train/dog/README); links to a folder above: 2 (first: "
        "train/cat/root); special files: 1 (first: train/dog/pipe.png)"
    )
    # Links to other folders are followed.
    assert len(val) == len(opened(tmp_path, "holdout")) == 1 + 2 + 1
    assert all_splits(tmp_path) == ["holdout", "train", "val"]


def test_a_class_without_images_is_refused_with_the_reason(tmp_path):
    fill(tmp_path, {"train/cat": 0, "train/dog": 1})
    (tmp_path / "train" / "cat" / "a.heic").write_text("x")
    with pytest.raises(InputError, match=r"cat contains no images; not read: .heic files: 1 \("):
        opened(tmp_path, "train")


def test_an_unreadable_folder_is_counted_or_refused(tmp_path, monkeypatch):
    fill(tmp_path, {**SPLITS, "train/cat/closed": 2, "secret/cat": 1})
    scandir = os.scandir

    def refuse(path):
        if os.path.basename(path) in ("closed", "secret"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    source = opened(tmp_path, "train")
    assert len(source) == 5
    assert source.notes[0].endswith("secret (cannot be read)")
    assert source.notes[1].endswith("not read: unreadable folders: 1 (first: train/cat/closed)")
    with pytest.raises(InputError, match="val; .*/secret cannot be read"):
        opened(tmp_path, "secret")
    monkeypatch.setattr(os, "scandir", lambda path: refuse("closed"))
    with pytest.raises(InputError, match="folder .*: Permission denied"):
        opened(tmp_path, "train")


def test_classes_that_differ_in_case_only_are_named(tmp_path):
    source = opened(fill(tmp_path, {"train/Cat": 1, "train/a": 1, "train/cat": 2}), "train")
    assert source.classes == ("Cat", "a", "cat")
    assert source.notes == (
        f"folder:{tmp_path}, split train: classes that differ in case only: Cat and cat",
    )


def test_names_that_are_no_valid_text(tmp_path):
    fill(tmp_path, {"train/cat": 1})
    (tmp_path / "train" / "cat" / os.fsdecode(b"\xff.png")).write_text("x")
    assert len(opened(tmp_path, "train")) == 2


def test_order_and_fingerprint_of_ordinary_folders_are_those_of_version_0_1(tmp_path):
    """Values of the code before `layout` existed: runs in old run directories continue."""
    splits = {"train/cat": 50, "train/dog/deep": 4, "val/cat": 2, "val/dog": 3}
    fill(tmp_path / "splits", splits)
    fill(tmp_path / "flat", {"cat": 20, "dog/deep": 30, "train": 40})
    for name, split, checksum, files, total in (
        (
            "splits",
            "train",
            "084e0958c00ff36dc7731905b4485b0d69cd06391b2a92aae13ec0d417346213",
            ["train/cat/00.png", "train/cat/18.png", "train/dog/deep/03.png"],
            206,
        ),
        (
            "splits",
            "train[:50%]+val",
            "484848047fa112c63b40f198a054b66e4ac92a8e7524c2f6c45d3dd6a054e0dd",
            ["train/cat/00.png", "train/cat/20.png", "val/dog/02.png"],
            141,
        ),
        (
            "flat",
            "images[:75%]",
            "aab26df78b7a6e7e2ff1623be14fac90640fe079fa2ffaabd83470b1944f9d2b",
            ["cat/00.png", "dog/deep/09.png", "train/39.png"],
            3748,
        ),
    ):
        source = opened(tmp_path / name, split)
        assert source.fingerprint["checksum"] == checksum
        assert [source.records.files[i] for i in (0, len(source) // 3, -1)] == files
        assert sum(i * int(label) for i, label in enumerate(source.records.labels(None))) == total


def test_names_of_splits():
    names = ["train", "Val2017", "test_set", "trainer", "my train", "cat", "training-images"]
    assert layout.named_as_splits(names) == ["train", "Val2017", "test_set", "training-images"]
