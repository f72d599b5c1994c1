"""Damaged data: one-line errors of the command line."""

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


def test_broken_images_are_skipped_with_skip_broken(tmp_path, capsys):
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
    code, message = run(capsys, tmp_path, *more, "--config.data.skip_broken=true")
    assert code == 0
    assert f"skipping 1 unreadable examples of train; the first: folder:{tmp_path}" in message
    assert message.endswith("1 broken train examples were left out\n")
