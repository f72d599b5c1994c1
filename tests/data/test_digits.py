"""The embedded digits compared with scikit-learn's arrays."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from sklearn.datasets import load_digits

from cv_jax.data import digits, embedded


def test_the_dataset_equals_scikit_learn(data_dir):
    original = load_digits()
    test = digits.is_test(original.target)
    builder = tfds.builder("digits", data_dir=data_dir)
    seen = 0
    for split, chosen in (("train", ~test), ("test", test)):
        source = builder.as_data_source(split)
        expected = original.images[chosen]
        assert len(source) == len(expected)
        for i in range(len(source)):
            example = source[i]
            assert example["image"].shape == (8, 8, 1)
            # 17 grey levels are scaled to 0…255 without loss.
            np.testing.assert_array_equal(
                np.round(example["image"][..., 0] * (16 / 255)), expected[i]
            )
            assert example["label"] == original.target[chosen][i]
        seen += len(source)
    assert seen == 1797


def test_the_split_is_stratified():
    labels = load_digits().target
    test = digits.is_test(labels)
    assert test.sum() == 359
    for label in range(10):
        share = test[labels == label].mean()
        assert abs(share - 0.2) < 0.005


def _ensure(folder, environment=None):
    code = (
        "import sys, pathlib; from cv_jax.data import embedded;"
        "print(embedded.ensure('digits', pathlib.Path(sys.argv[1])))"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code, str(folder)],
        env={**os.environ, **(environment or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_concurrent_processes_write_one_complete_dataset(tmp_path):
    processes = [_ensure(tmp_path) for _ in range(3)]
    for process in processes:
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        assert out.strip() == str(tmp_path)
    assert sorted(p.name for p in (tmp_path / "digits").iterdir()) == ["1.0.0"]
    assert len(tfds.builder("digits", data_dir=tmp_path).as_data_source("test")) == 359


def test_a_read_only_folder_falls_back_to_the_cache(tmp_path, monkeypatch):
    # A file instead of the folder: not even root can write there.
    blocked = tmp_path / "blocked"
    blocked.write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = embedded.ensure("digits", blocked)
    assert folder == tmp_path / "cache" / "cv_jax" / "tfds"
    assert json.loads((folder / "digits" / "1.0.0" / "dataset_info.json").read_text())


def test_a_read_only_cache_is_an_error(tmp_path, monkeypatch):
    blocked = tmp_path / "blocked"
    blocked.write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
    with pytest.raises(OSError, match="blocked"):
        embedded.ensure("digits", blocked)


def test_partial_folders_of_killed_processes_are_deleted(tmp_path):
    (tmp_path / "digits" / ".writing-abc" / "digits").mkdir(parents=True)
    out, err = _ensure(tmp_path).communicate(timeout=120)
    assert out.strip() == str(tmp_path), err
    assert sorted(p.name for p in (tmp_path / "digits").iterdir()) == ["1.0.0"]


def test_a_process_waits_for_the_one_that_writes(tmp_path):
    (tmp_path / "digits").mkdir()
    with embedded._locked(tmp_path / "digits") as locked:
        assert locked
        other = _ensure(tmp_path)
        with pytest.raises(subprocess.TimeoutExpired):
            other.wait(4)
        assert not list((tmp_path / "digits").iterdir())
    assert other.communicate(timeout=120)[0].strip() == str(tmp_path)


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path):
    """A file-size limit makes a write fail like a full disk."""
    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "from cv_jax import __main__ as program; from cv_jax.data import catalog;"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (50000, 50000));"
        "sys.exit(program.main(['prepare', 'digits', '--data-dir', sys.argv[1]]))"
    )
    words = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1, done.stderr
    assert done.stderr.startswith(
        f"error: dataset 'digits' cannot be written to {tmp_path}/digits/1.0.0: "
    )
    assert done.stderr.count("\n") == 1
    assert not list((tmp_path / "digits").iterdir())
