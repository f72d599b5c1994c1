"""Data that changed after a run read them are noticed when they are read again."""

import errno
import hashlib
import os
import pickle
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter
from changing_photos import CHANGED, COUNT, batches_of, exchange, replace, write
from tensorflow_datasets.proto import tf_example_pb2

from cv_jax import __main__ as program
from cv_jax.data import digests, fingerprint, pipeline, sources, subsets
from cv_jax.errors import InputError, RunError

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """Images which count as large data."""
    monkeypatch.setattr(fingerprint, "MAX_BYTES", 0)
    return write(tmp_path / "photos")


def noted(name, split="train", folder=None, **identity):
    source = sources.open_source(name, split, folder)
    return digests.noted(source, {**source.fingerprint, **identity})


def read_all(source, run, process=0, indices=None):
    """Read examples as process `process` of a run in `run`; return the error, if any."""
    try:
        digests.keep({"train": source}, [run], process)
        for index in range(len(source)) if indices is None else indices:
            source.read(index)
    except InputError as error:
        return str(error)
    return None


@pytest.fixture
def run(tmp_path):
    (tmp_path / "run").mkdir()
    return tmp_path / "run"


# ---- One split


def test_a_number_is_of_the_bytes_and_the_label(photos, run):
    assert read_all(noted(f"folder:{photos}"), run) is None
    content = (run / "digests/train-0.bin").read_bytes()
    numbers = np.frombuffer(content[32:], "<u8")
    assert len(numbers) == COUNT
    for index, file in ((1, "a/01.bmp"), (79, "b/39.bmp")):
        label = np.array(int(file.startswith("b")), "<i8").tobytes()
        text = b"bytes ()\0" + label + (photos / "train" / file).read_bytes()
        expected = int.from_bytes(hashlib.sha256(text).digest()[:6], "little")
        assert int(numbers[index]) & (2**48 - 1) == expected
    assert len(set(numbers.tolist())) == COUNT


def test_a_replaced_image_is_named(photos, run):
    assert read_all(noted(f"folder:{photos}"), run) is None
    assert read_all(noted(f"folder:{photos}"), run) is None
    replace(photos / CHANGED)
    message = (
        f"folder:{photos}, {photos}/{CHANGED}: the example or its label has changed since the run "
        "read it first; put back the old data, or give another --workdir; to go on with the new "
        f"data, move {run}/digests away"
    )
    assert read_all(noted(f"folder:{photos}"), run) == message
    replace(photos / CHANGED)
    assert read_all(noted(f"folder:{photos}"), run) is None
    replace(photos / CHANGED)
    shutil.move(run / "digests", run / "old")  # the advice
    assert read_all(noted(f"folder:{photos}"), run) is None


def test_images_exchanged_between_classes_are_named(photos, run):
    assert read_all(noted(f"folder:{photos}"), run) is None
    exchange(photos / CHANGED, photos / "train/b/01.bmp")
    assert f"{CHANGED}: the example or its label" in read_all(noted(f"folder:{photos}"), run)


def test_a_change_is_noticed_without_files_too(photos):
    source = noted(f"folder:{photos}")
    source.read(1)
    replace(photos / CHANGED)
    with pytest.raises(digests.Changed, match="or give another --workdir$"):
        source.read(1)


def rewrite(shard, index, change):
    """Write a shard of records again with one of them changed."""
    records = ArrayRecordReader(str(shard)).read_all()
    records[index] = change(records[index])
    writer = ArrayRecordWriter(str(shard), "group_size:1,uncompressed")
    for record in records:
        writer.write(record)
    writer.close()


def test_a_replaced_record_is_named(photos, run, tmp_path):
    words = ["prepare", f"folder:{photos}", "--to", str(tmp_path / "small"), "--workers=1"]
    assert program.main([*words, "--raw", "--shard-examples=20"]) == 0
    name = f"records:{tmp_path}/small"
    assert read_all(noted(name), run) is None
    shard = next((tmp_path / "small").glob("train-00000*"))
    rewrite(shard, 3, lambda record: record[:-1] + bytes([record[-1] ^ 1]))
    assert f"record 3 of {shard}: the example or its label" in read_all(noted(name), run)


def test_a_changed_label_in_a_tfds_record_is_named(data_dir, run, tmp_path):
    shutil.copytree(data_dir / "digits", tmp_path / "digits")
    assert read_all(noted("digits", folder=tmp_path), run) is None

    def other_label(record):
        example = tf_example_pb2.Example.FromString(record)
        label = example.features.feature["label"].int64_list
        label.value[0] = (label.value[0] + 1) % 10
        return example.SerializeToString()

    rewrite(next(tmp_path.glob("digits/*/digits-train*")), 7, other_label)
    assert "record 7 of" in read_all(noted("digits", folder=tmp_path), run)


def test_sequences_are_compared(symbols_dir, run):
    assert read_all(noted("sort", folder=symbols_dir), run) is None
    assert read_all(noted("sort", folder=symbols_dir), run) is None
    path = run / "digests/train-0.bin"
    before = path.read_bytes()
    assert read_all(noted("reverse", folder=symbols_dir), run) is None  # another split begins anew
    assert path.with_suffix(".damaged").read_bytes() == before


def test_a_part_of_a_part_has_the_indices_of_the_part(photos, run):
    """A probe draws from the training split, which is a part of the dataset."""
    whole = sources.open_source(f"folder:{photos}", "train", None)
    part = digests.noted(subsets.balanced(whole, 0.5, None, 0), {})
    assert read_all(part, run) is None
    drawn = subsets.balanced(part, None, 5, 1)
    for index in range(len(drawn)):
        drawn.read(index)
    assert len(np.flatnonzero(np.frombuffer((run / "digests/train-0.bin").read_bytes()[32:]))) == 40


# ---- Processes


def test_processes_have_files_of_their_own_and_learn_from_all(photos, run):
    name, half = f"folder:{photos}", range(40)
    assert read_all(noted(name), run, 0, half) is None
    assert read_all(noted(name), run, 1, range(40, 80)) is None
    assert {file.name for file in (run / "digests").iterdir()} == {"train-0.bin", "train-1.bin"}
    assert len(noted(name).records.learn(run, "train")) == COUNT
    replace(photos / CHANGED)
    for process in (0, 1, 2):  # also after a restart on more or fewer processes
        assert CHANGED in read_all(noted(name), run, process, half)
    assert read_all(noted(name), run, 3, range(40, 80)) is None


def test_processes_that_read_different_data_are_noticed_at_the_end_and_at_a_start(photos, run):
    first, second = noted(f"folder:{photos}"), noted(f"folder:{photos}")
    digests.keep({"train": first}, [run], 0)
    digests.keep({"train": second}, [run], 1)
    first.read(1)
    replace(photos / CHANGED)
    second.read(1)
    with pytest.raises(digests.Changed, match=CHANGED):  # at the end of the run
        digests.compare({"train": first}, run)
    assert CHANGED in read_all(noted(f"folder:{photos}"), run)


def test_runs_of_one_program_all_have_the_digests(photos, tmp_path):
    runs = [tmp_path / "one", tmp_path / "two"]
    for path in runs:
        path.mkdir()
    source = noted(f"folder:{photos}")
    digests.keep({"train": source, "eval": noted(f"folder:{photos}", "val")}, runs)
    source.read(1)
    replace(photos / CHANGED)
    for path in runs:
        assert CHANGED in read_all(noted(f"folder:{photos}"), path, 0, [1])


def test_a_copy_in_a_loader_process_writes_to_the_same_file(photos, run):
    source = noted(f"folder:{photos}")
    digests.keep({"train": source}, [run])
    copies = [pickle.loads(pickle.dumps(source)) for _ in range(2)]
    copies[0].read(1)
    replace(photos / CHANGED)
    with pytest.raises(digests.Changed, match=f"{CHANGED}: "):
        copies[1].read(1)


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_the_second_epoch_is_compared_with_the_first(photos, run, workers):
    source = noted(f"folder:{photos}")
    digests.keep({"train": source}, [run])
    batches = batches_of(source)
    ready = {"workers": workers, "threads": 2, "prefetch": 1}
    expected = list(
        pipeline.iterate(
            batches_of(sources.open_source(source.name, "train", None)), **{**ready, "workers": 0}
        )
    )
    last = batches.indices(19)[-1]  # late in the second epoch, so it is not prefetched
    loaded = pipeline.iterate(batches, **ready)
    for step in range(10):
        got = next(loaded)
        assert all((got[key] == expected[step][key]).all() for key in got)
    file = Path(source.records.place(last))
    replace(file)
    with pytest.raises(digests.Changed, match=f"{file.name}: the example or its label"):
        list(loaded)


def test_a_kill_leaves_a_sound_file(photos, run):
    program = (
        "import os, sys\n"
        "from cv_jax.data import digests, sources\n"
        f"source = sources.open_source({f'folder:{photos}'!r}, 'train', None)\n"
        "source = digests.noted(source, source.fingerprint)\n"
        f"digests.keep({{'train': source}}, [__import__('pathlib').Path({str(run)!r})])\n"
        "for index in range(30): source.read(index)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": ROOT})
    assert ended.returncode == -signal.SIGKILL
    (run / "digests/train-0.writing").write_bytes(b"of another kill")
    assert noted(f"folder:{photos}").records.learn(run, "train").tolist() == list(range(30))
    replace(photos / CHANGED)
    assert CHANGED in read_all(noted(f"folder:{photos}"), run)


# ---- Files


def test_damage_of_the_file_is_never_taken_for_changed_data(photos, run, caplog):
    name, path = f"folder:{photos}", run / "digests/train-0.bin"
    assert read_all(noted(name), run, 0, range(3)) is None
    content = path.read_bytes()

    def flipped(place, bit):
        return content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :]

    def known():
        return noted(name).records.learn(run, "train").tolist()

    for place in range(32 + 3 * 8):
        path.write_bytes(flipped(place, place % 8))
        assert known() == [i for i in range(3) if place >= 32 and i != (place - 32) // 8]
    path.write_bytes(content[:32] + content[40:48] + content[32:40] + content[48:])
    assert known() == [2]
    assert read_all(noted(name), run) is None
    assert f"{path}: 2 digests are damaged and forgotten" in caplog.text
    assert known() == list(range(COUNT))


def test_a_file_of_another_size_is_renamed(photos, run, caplog):
    name, path = f"folder:{photos}", run / "digests/train-0.bin"
    assert read_all(noted(name), run) is None
    content = path.read_bytes()
    for wrong in (content[:-1], content + b"\0", content[:32], b"", flip(content)):
        path.write_bytes(wrong)
        caplog.clear()
        assert read_all(noted(name), run, 0, range(3)) is None
        assert f"{path} is damaged or of other data, and not used" in caplog.text
        assert f"{path} is renamed to train-0.damaged, and begun anew" in caplog.text
        assert path.with_suffix(".damaged").read_bytes() == wrong
        assert noted(name).records.learn(run, "train").tolist() == [0, 1, 2]
    os.truncate(path, 2**42)
    assert len(noted(name).records.learn(run, "train")) == 0


def flip(content):
    """Flip a bit of the head."""
    return bytes([content[0] ^ 1]) + content[1:]


def test_a_file_that_is_damaged_while_the_run_reads_is_repaired(photos, run):
    source, path = noted(f"folder:{photos}"), run / "digests/train-0.bin"
    digests.keep({"train": source}, [run])
    os.truncate(path, 32)
    source.read(1)
    os.truncate(path, 32)
    source.read(1)
    source.read(79)
    assert noted(f"folder:{photos}").records.learn(run, "train").tolist() == [79]


def test_other_data_are_never_compared(photos, run):
    name = f"folder:{photos}"
    assert read_all(noted(name), run) is None
    for other in (noted(name, split="val"), noted(name, fraction=0.5)):
        assert len(other.records.learn(run, "train")) == 0


def test_a_full_disk_is_one_line(photos, run, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    source, path = noted(f"folder:{photos}"), run / "digests/train-0.bin"
    digests.keep({"train": source}, [run])
    monkeypatch.setattr(os, "pwrite", full)
    monkeypatch.setattr(os, "fsync", full)
    for act in (lambda: source.read(1), lambda: digests.keep({"train": source}, [run])):
        with pytest.raises(RunError) as caught:
            act()
        assert str(caught.value) == f"{path} cannot be written: No space left on device"


def test_something_else_in_the_place_of_the_file_is_refused(photos, run):
    (run / "digests/train-0.bin").mkdir(parents=True)
    path = run / "digests/train-0.bin"
    assert (
        read_all(noted(f"folder:{photos}"), run) == f"{path} is a folder, not a file; move it away"
    )
    path.rmdir()
    os.mkfifo(path)
    assert read_all(noted(f"folder:{photos}"), run) == f"{path} is a pipe, not a file; move it away"
