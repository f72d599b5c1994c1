"""Damaged data: one-line errors of the command line."""

import os
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

import launch  # noqa: E402
from cv_jax import __main__ as program  # noqa: E402
from cv_jax.data import decode, sources, splits  # noqa: E402
from cv_jax.errors import InputError  # noqa: E402

FLAGS = ["--config.total_steps=20", "--config.model.widths=8", "--config.image_size=8"]
FLAGS += ["--config.batch_size=64", "--config.eval.batch_size=64"]


def arguments(folder, *more):
    config = ["--config", f"{ROOT}/configs/mlp.py", "--workdir", f"{folder}/run"]
    return [*config, f"--config.data.dir={folder}", *FLAGS, *more]


def run(capsys, folder, *more):
    """Run in this process; return the exit code and stderr."""
    code = launch.run(arguments(folder, *more))
    return code, capsys.readouterr().err


@pytest.fixture
def digits(data_dir, tmp_path):
    shutil.copytree(data_dir / "digits", tmp_path / "digits")
    return tmp_path


def shard(folder):
    return next(folder.glob("digits/*/digits-train.array_record*"))


def corrupt(folder):
    """Flip the bits of one byte in the middle of a record."""
    data = bytearray(shard(folder).read_bytes())
    data[data.index(b"IHDR", len(data) // 20) + 30] ^= 255
    shard(folder).write_bytes(data)


def test_a_corrupt_record_while_the_cache_is_filled(digits, capsys):
    corrupt(digits)
    code, message = run(capsys, digits)
    assert code == 2
    assert re.fullmatch(r"error: digits, record \d+ of \S+digits-train\S+: .*hash mis.*\n", message)
    assert not (digits / "run").exists()


@pytest.mark.parametrize("workers", [0, 1])
def test_a_corrupt_record_in_a_loader(digits, capsys, workers):
    corrupt(digits)
    more = [f"--config.data.workers={workers}", "--config.data.cache=none"]
    code, message = run(capsys, digits, *more)
    assert code == 1
    lines = [line for line in message.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert re.match(r"error: digits, record \d+ of \S+digits-train\S+: .*hash mis", lines[0])
    assert "Traceback" not in message


def test_a_truncated_shard(digits, capsys):
    shard(digits).write_bytes(shard(digits).read_bytes()[:200_000])
    code, message = run(capsys, digits)
    assert code == 2
    assert re.fullmatch(r"error: digits, record 0 of \S+digits-train\S+: [^\n]+\n", message)


def test_a_missing_shard(digits, capsys):
    path = shard(digits)
    path.unlink()
    code, message = run(capsys, digits)
    assert code == 2
    assert message == (
        f"error: dataset 'digits': 1 of 1 files of split 'train' are missing; the first is {path}\n"
    )


def test_a_label_out_of_range(digits, capsys):
    # The same files as a dataset without builder code, with one class fewer.
    for path in sorted(digits.rglob("*digits*"), reverse=True):
        path.rename(path.with_name(path.name.replace("digits", "nine")))
    version = digits / "nine" / "1.0.0"
    info, features = version / "dataset_info.json", version / "features.json"
    info.write_text(info.read_text().replace('"digits"', '"nine"'))
    features.write_text(features.read_text().replace('"10"', '"9"'))
    (version / "label.labels.txt").unlink(missing_ok=True)
    code, message = run(capsys, digits, "--config.data.name=nine")
    assert code == 2
    assert re.fullmatch(r"error: nine, record \d+ of \S+: label 9 is not in 0…8\n", message)


def test_an_empty_split(data_dir, tmp_path, capsys):
    shutil.copytree(data_dir / "digits", tmp_path / "digits")
    code, message = run(capsys, tmp_path, "--config.data.train_split=train[:0]")
    assert code == 2
    assert message == "error: config.data.train_split: split 'train[:0]' is empty\n"


@pytest.fixture
def forbidden(monkeypatch):
    """A function that takes the read permission of a file, also for root."""
    files, read_file = set(), decode.read_file

    def read(path, *limit):
        if path in files:
            raise PermissionError(13, "Permission denied", str(path))
        return read_file(path, *limit)

    monkeypatch.setattr(decode, "read_file", read)
    return files.add


def test_broken_images_are_skipped_with_skip_broken(tmp_path, capsys, forbidden):
    generator = np.random.default_rng(0)
    for split, count in (("train", 40), ("val", 4)):
        for class_ in ("a", "b"):
            (tmp_path / split / class_).mkdir(parents=True)
            for i in range(count):
                pixels = generator.integers(0, 256, (8, 8, 3), np.uint8)
                Image.fromarray(pixels).save(tmp_path / split / class_ / f"{i:02}.jpg")
    file = tmp_path / "train" / "b" / "07.jpg"
    file.write_bytes(file.read_bytes()[:400])
    more = [f"--config.data.name=folder:{tmp_path}", "--config.data.eval_split=val"]
    code, message = run(capsys, tmp_path, *more)
    assert code == 2
    assert re.fullmatch(rf"error: folder:{tmp_path}, {file}: [^\n]*[Tt]runcated[^\n]*\n", message)
    # The fingerprint reads the first file; a file without permission is a broken example, too.
    first = tmp_path / "train" / "a" / "00.jpg"
    forbidden(first)
    Image.new("RGB", (8, 8)).save(tmp_path / "train" / "preview.jpg")
    (tmp_path / "val" / "a" / "note.txt").write_text("")
    code, message = run(capsys, tmp_path, *more)
    assert code == 2
    reason = f"folder:{tmp_path}, {first}: Permission denied\n"
    note = f"folder:{tmp_path}: left out, because not in PATH/SPLIT/CLASS/: train (1 image)\n"
    assert message == f"{note}error: {reason}"
    code, message = run(capsys, tmp_path, *more, "--config.data.skip_broken=true")
    assert code == 0
    assert f"skipping 2 unreadable examples of train; the first: {reason}" in message
    assert message.endswith("2 broken train examples were left out\n")
    assert message.count(f"{tmp_path}, split val: not read: .txt files: 1 (first: val/a/n") == 1
    assert note not in message  # a note is printed once in a process


def images(root, **classes):
    for split in ("train", "val"):
        for class_, count in classes.items():
            (root / split / class_).mkdir(parents=True)
            for i in range(count):
                Image.new("RGB", (8, 8), (i, 0, 0)).save(root / split / class_ / f"{class_}{i}.png")
    return [f"--config.data.name=folder:{root}", "--config.data.eval_split=val"]


def test_a_class_is_never_emptied_without_a_word(tmp_path, capsys, forbidden):
    flags = images(tmp_path, a=3, b=1)
    forbidden(tmp_path / "train" / "b" / "b0.png")
    code, message = run(capsys, tmp_path, *flags, "--config.data.skip_broken=true")
    assert code == 2
    assert message.endswith(
        f"error: no example of class 'b' of folder:{tmp_path} can be read, so it cannot be "
        f"skipped; the first reason: folder:{tmp_path}, {tmp_path}/train/b/b0.png: Permission "
        "denied\n"
    )
    assert not (tmp_path / "run").exists()


def test_a_class_that_prepare_would_empty_is_refused(tmp_path, capsys):
    images(tmp_path / "p", a=3, b=1)
    (tmp_path / "p" / "train" / "b" / "b0.png").write_bytes(b"\x89PNG")
    arguments = ["prepare", f"folder:{tmp_path}/p", "--to", f"{tmp_path}/out", "--workers=1"]
    assert program.main([*arguments, "--skip-broken"]) == 2
    message = capsys.readouterr().err
    assert message.splitlines()[-1].startswith("error: no example of class 'b' of folder:")
    with pytest.raises(InputError, match="is incomplete; resume with"):
        sources.open_source(f"records:{tmp_path}/out", "train", None)


def test_a_damaged_record_has_no_label(digits, load_config):
    corrupt(digits)
    fields = {"data.dir": digits, "data.skip_broken": "true", "data.per_class": 20}
    source = splits.open_train(load_config("mlp", fields))
    assert len(source) == 200
    assert len(source.fingerprint["broken"]) == 1


def test_images_above_the_limit_are_broken(tmp_path, capsys):
    flags = [*images(tmp_path, a=3, b=2), "--config.data.max_pixels=63"]
    reason = (
        f"folder:{tmp_path}, {tmp_path}/train/a/a0.png: 64 pixels, more than the limit of 63 "
        "(config.data.max_pixels; --max-pixels of prepare and predict)\n"
    )
    code, message = run(capsys, tmp_path, *flags)
    assert (code, message.endswith(f"error: {reason}")) == (2, True)
    code, message = run(capsys, tmp_path, *flags, "--config.data.skip_broken=true")
    assert (code, message.endswith(reason)) == (2, True)
    arguments = ["prepare", f"folder:{tmp_path}", "--to", f"{tmp_path}/out", "--workers=1"]
    assert program.main([*arguments, "--splits=train", "--max-pixels=63"]) == 1
    error = f"error: {reason[:-1]} (--skip-broken skips it)"
    assert capsys.readouterr().err.splitlines()[-1] == error


def test_pipes_sockets_and_sparse_files_among_the_images(tmp_path, capsys):
    """A pipe would wait for its writer; a sparse file of a terabyte takes no room on the disk."""
    flags = images(tmp_path, a=3, b=2)
    folder = tmp_path / "train" / "a"
    os.mkfifo(folder / "pipe.png")
    (folder / "zero.png").symlink_to("/dev/zero")
    sparse = folder / "sparse.jpg"
    sparse.touch()
    os.truncate(sparse, 2**40)
    code, message = run(capsys, tmp_path, *flags)
    assert code == 2
    assert "not read: special files: 2 (first: train/a/pipe.png)" in message
    reason = f"{sparse}: 1,099,511,627,776 bytes, more than an image of 178,956,970 pixels needs"
    assert f"\nerror: folder:{tmp_path}, {reason}" in message
    code, message = run(capsys, tmp_path, *flags, "--config.data.skip_broken=true")
    assert f"skipping 1 unreadable examples of train; the first: folder:{tmp_path}, " in message
