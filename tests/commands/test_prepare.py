"""`python -m cv_jax prepare NAME`: datasets and error messages."""

import io
import tarfile

import numpy as np
import pytest
from PIL import Image

from cv_jax import __main__ as program
from cv_jax.data import sources


def test_the_embedded_dataset_needs_no_tensorflow(tmp_path, capsys):
    assert program.main(["prepare", "digits", f"--data-dir={tmp_path}"]) == 0
    said = capsys.readouterr().out
    assert f"digits train: 1,438 examples in {tmp_path}/digits/1.0.0" in said
    assert "digits test: 359 examples" in said


def test_a_missing_tensorflow_is_named(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert program.main(["prepare", "mnist", f"--data-dir={tmp_path}"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: TFDS needs TensorFlow to write a dataset")
    assert said.endswith("pip install tensorflow-cpu\n")


def _write_archive(path, files):
    with path.open("wb") as file, tarfile.open(fileobj=file, mode="w") as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))


def _jpeg(grey):
    data = io.BytesIO()
    Image.fromarray(np.full((24, 32, 3), grey, np.uint8)).save(data, "JPEG")
    return data.getvalue()


def test_imagenet_is_built_from_its_archives(tmp_path, capsys):
    """Archives in the published structure but smaller, in TFDS's manual folder."""
    pytest.importorskip("tensorflow", reason="TFDS writes datasets with TensorFlow")
    manual = tmp_path / "downloads" / "manual"
    manual.mkdir(parents=True)
    classes = {}
    for number, name in enumerate(("n01440764", "n01443537", "n01484850")):  # the first three
        archive = tmp_path / f"{name}.tar"
        images = {f"{name}_{i}.JPEG": _jpeg(50 * number + 10 * i) for i in range(4)}
        _write_archive(archive, images)
        classes[archive.name] = archive.read_bytes()
    _write_archive(manual / "ILSVRC2012_img_train.tar", classes)
    for split in ("val", "test"):
        images = {f"ILSVRC2012_{split}_{i:08d}.JPEG": _jpeg(i) for i in range(1, 6)}
        _write_archive(manual / f"ILSVRC2012_img_{split}.tar", images)

    assert program.main(["prepare", "imagenet2012", f"--data-dir={tmp_path}"]) == 0
    assert "imagenet2012 train: 12 examples" in capsys.readouterr().out
    source = sources.open_source("imagenet2012", "train", tmp_path)
    assert source.num_classes == 1000
    examples = [source.example(i) for i in range(len(source))]
    # Each class has the grey levels of its files, in any order of examples.
    for number in range(3):
        levels = [image.mean() for image, label in examples if label == number]
        assert sorted(levels) == pytest.approx([50 * number + 10 * i for i in range(4)], abs=1)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["mnits"], "unknown dataset 'mnits'; did you mean mnist"),
        (["folder:/x"], "exists already; add --to DIR to re-encode it"),
        (["digits", "--to=o", "--quality=0"], "--quality=0 must be at least 1 and at most 100"),
        (["digits", "--to=o", "--short-side=0"], "--short-side=0 must be at least 1"),
        (["digits", "--to=o", "--method=best"], "--method=best is not one of nearest"),
        (["digits", "--to=o", "--splits=train,dev"], "split 'dev' of 'digits'"),
        (["folder:/no/where", "--to=o"], "/no/where does not exist; give a folder"),
    ],
)
def test_mistakes_give_one_line_and_write_nothing(
    words, said, data_dir, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert program.main(["prepare", *words, f"--data-dir={data_dir}"]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())
