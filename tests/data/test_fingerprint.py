"""A dataset that changed in any file has another fingerprint; a copy of it has the same."""

import hashlib
import json
import os
import shutil
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

import launch  # noqa: E402
from cv_jax import __main__ as program  # noqa: E402
from cv_jax.data import fingerprint, sources, splits  # noqa: E402
from cv_jax.errors import InputError  # noqa: E402


def identity(name, full=False):
    source = sources.open_source(f"folder:{name}", "train", None)
    return {**source.fingerprint, **splits.contents(source, full)}


def changed(before, now):
    return fingerprint.differing(json.loads(json.dumps(before)), now)


@pytest.fixture
def folder(tmp_path):
    """80 images in two classes: the checksum of the metadata reads 32 of them."""
    draw = np.random.default_rng(0)
    for split in ("train", "val"):
        for name in ("a", "b"):
            (tmp_path / "photos" / split / name).mkdir(parents=True)
            for i in range(40):
                pixels = draw.integers(0, 256, (6, 6, 3), np.uint8)
                Image.fromarray(pixels).save(tmp_path / "photos" / split / name / f"{i:02}.bmp")
    return tmp_path / "photos"


def exchange(first, second):
    """Exchange two files with their times."""
    first.rename(first.with_suffix(".x"))
    second.rename(first)
    first.with_suffix(".x").rename(second)


def replace(file):
    """Change a pixel; size and time stay."""
    state = file.stat()
    content = bytearray(file.read_bytes())
    content[-1] ^= 255
    file.write_bytes(content)
    os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))


def files_of(folder):
    return [folder / "train" / c / f"{i:02}.bmp" for c in "ab" for i in range(40)]


def test_any_changed_file_of_a_folder_is_noticed(folder):
    before = identity(folder)
    for file in files_of(folder):
        replace(file)
        fingerprint._sha256.cache_clear()  # another process: size and time are equal
        assert "contents" in changed(before, identity(folder))
        replace(file)
    fingerprint._sha256.cache_clear()
    assert changed(before, identity(folder)) == []


def test_images_exchanged_between_classes_are_noticed(folder):
    before = identity(folder)
    exchange(folder / "train/a/01.bmp", folder / "train/b/01.bmp")
    assert "contents" in changed(before, identity(folder))


def test_a_copy_has_the_same_contents(folder, tmp_path):
    before = identity(folder)
    shutil.copytree(folder, tmp_path / "copy", copy_function=shutil.copy)  # without times
    now = identity(tmp_path / "copy")
    assert now["times"] != before["times"]
    assert changed(before, now) == []


def test_without_contents_names_sizes_and_times_decide(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(fingerprint, "MAX_BYTES", 1000)
    before = identity(folder)
    assert before["contents"] is None
    assert identity(folder, full=True)["contents"] is not None
    shutil.copytree(folder, tmp_path / "copy")  # with times
    assert changed(before, identity(tmp_path / "copy")) == []
    assert changed(before, identity(tmp_path / "copy", full=True)) == []
    for file in files_of(folder):
        state = file.stat()
        os.utime(file, ns=(0, state.st_mtime_ns + 1))
        assert changed(before, identity(folder)) == ["times"]
        os.utime(file, ns=(0, state.st_mtime_ns))
    assert changed(before, identity(folder)) == []


def test_the_contents_are_the_names_and_digests(tmp_path):
    (tmp_path / "x").write_bytes(b"one")
    found = fingerprint.of_files([("x", tmp_path / "x"), ("y", tmp_path / "missing")])
    digest = hashlib.sha256(b"one").hexdigest()
    expected = hashlib.sha256(f"x\0{digest}\ny\0unreadable\n".encode()).hexdigest()
    assert found["contents"] == expected


def test_fingerprints_of_earlier_versions_are_compared_as_before(folder):
    now = identity(folder)
    before = {key: now[key] for key in ("name", "splits", "checksum")}
    assert changed(before, now) == []
    assert changed({**before, "checksum": "0"}, now) == ["checksum"]
    assert changed(now, {**now, "broken": [3]}) == ["broken"]


def test_copies_on_hosts_may_differ_in_times_only(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "copy", copy_function=shutil.copy)
    found = [fingerprint.of_every_host(identity(path)) for path in (folder, tmp_path / "copy")]
    assert found[0] == found[1]


FLAGS = ["--config.total_steps=2", "--config.batch_size=8", "--config.eval.batch_size=8"]
FLAGS += ["--config.mesh.devices=1", "--config.image_size=6"]


def train(capsys, name, workdir, *more):
    config = ["--config", f"{ROOT}/configs/linear.py", "--workdir", str(workdir)]
    code = launch.run([*config, f"--config.data.name={name}", *FLAGS, *more])
    return code, capsys.readouterr().err


def test_a_run_on_changed_images_is_refused(folder, tmp_path, capsys):
    flags = [f"folder:{folder}", tmp_path / "run", "--config.data.eval_split=val"]
    assert train(capsys, *flags)[0] == 0
    assert train(capsys, *flags)[0] == 0
    exchange(folder / "train/a/01.bmp", folder / "train/b/01.bmp")
    code, message = train(capsys, *flags)
    assert code == 2
    assert "was started with other data" in message
    assert "train.contents: was" in message


def test_verify_reads_all_data_of_a_run(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(fingerprint, "MAX_BYTES", 1000)
    run = tmp_path / "run"
    flags = [f"folder:{folder}", run, "--config.data.eval_split=val"]

    def verified():
        code = program.main(["verify", str(run)])
        return code, capsys.readouterr().out.splitlines()[-2:]

    assert train(capsys, *flags)[0] == 0
    without = "names and sizes of the training; without a recorded hash (data.hash=full)"
    lines = [f"{run}, data.{split}_split: " for split in ("train", "eval")]
    read = "; 80 of 80 examples were read by the run, and are unchanged"
    assert verified() == (0, [line + without + read for line in lines])
    shutil.rmtree(run / "digests")  # an older version writes none
    assert verified() == (0, [line + without for line in lines])
    shutil.rmtree(run)
    assert train(capsys, *flags, "--config.data.hash=full")[0] == 0
    assert verified() == (0, [f"{line}the data of the training" for line in lines])
    replace(folder / "train/a/01.bmp")
    fingerprint._sha256.cache_clear()
    was = f"{lines[0]}changed since the training (contents)"
    assert verified() == (1, [was, f"{lines[1]}the data of the training"])
    folder.rename(tmp_path / "moved")
    code, found = verified()
    assert code == 0
    assert all("split: not checked: " in line and str(folder) in line for line in found)


@pytest.fixture
def prepared(folder, tmp_path, capsys):
    out = tmp_path / "records"
    words = ["prepare", f"folder:{folder}", "--to", str(out), "--workers=1", "--shard-examples=20"]
    assert program.main([*words, "--raw"]) == 0
    capsys.readouterr()
    return out


def test_a_run_on_exchanged_shards_is_refused(prepared, tmp_path, capsys):
    flags = [f"records:{prepared}", tmp_path / "run", "--config.data.eval_split=val"]
    assert train(capsys, *flags)[0] == 0
    shards = sorted(prepared.glob("train-*.array_record"))
    assert len({shard.stat().st_size for shard in shards}) == 1
    exchange(shards[0], shards[3])
    code, message = train(capsys, *flags)
    assert code == 2
    assert "train.contents: was" in message
    exchange(shards[0], shards[3])
    assert train(capsys, *flags)[0] == 0


def test_edited_labels_are_refused(prepared):
    labels = np.load(prepared / "train.labels.npy")
    np.save(prepared / "train.labels.npy", labels[::-1])
    with pytest.raises(InputError, match="train.labels.npy: SHA-256 differs from the index"):
        sources.open_source(f"records:{prepared}", "train", None)


def test_exchanged_shards_of_a_tfds_dataset_are_noticed(data_dir, tmp_path):
    shutil.copytree(data_dir / "digits", tmp_path / "digits")

    def now():
        source = sources.open_source("digits", "train", tmp_path)
        return {**source.fingerprint, **splits.contents(source, False)}

    before, files = now(), sorted(tmp_path.rglob("*.array_record*"))
    assert len(files) == 2
    exchange(*files)
    assert "contents" in changed(before, now())


def test_other_content_with_the_old_time_is_seen_in_the_same_process(tmp_path):
    file = tmp_path / "image"
    file.write_bytes(b"before")
    state, first = file.stat(), fingerprint.of_files([("image", file)])
    time.sleep(0.02)  # the clock of the file system
    file.write_bytes(b"after!")
    os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert file.stat().st_mtime_ns == state.st_mtime_ns
    second = fingerprint.of_files([("image", file)])
    assert second["times"] == first["times"]
    assert second["contents"] != first["contents"]


def test_a_file_of_terabytes_without_content_is_not_read(tmp_path):
    file = tmp_path / "image"
    file.write_bytes(b"")
    os.truncate(file, 2**42)
    started = time.monotonic()
    found = fingerprint.of_files([("image", file)], full=True)
    assert time.monotonic() - started < 1
    os.truncate(file, 2**41)
    assert fingerprint.of_files([("image", file)], full=True)["contents"] != found["contents"]
