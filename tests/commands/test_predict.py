"""`predict` compared with NumPy, and its error messages."""

import json

import numpy as np
import pytest
from PIL import Image

from cv_jax.__main__ import main
from cv_jax.data import sources
from cv_jax.interop import pretrained
from cv_jax.training import experiment, loop


def trained(load_config, path, name="linear", overrides=None):
    config = load_config(name, {"total_steps": 20, "batch_size": 64, **(overrides or {})})
    assert loop.train(experiment.build(config), path, "") == 0
    return path


@pytest.fixture(scope="module")
def run(load_config, tmp_path_factory):
    return trained(load_config, tmp_path_factory.mktemp("predict") / "run")


@pytest.fixture(scope="module")
def files(data_dir, tmp_path_factory):
    """(paths, images float [N, 32, 32], labels) of 40 test images: more than one batch."""
    folder, source = (
        tmp_path_factory.mktemp("digits"),
        sources.open_source("digits", "test", data_dir),
    )
    paths, images, labels = [], [], []
    for i in range(40):
        pixels, label = source.example(i)
        image = Image.fromarray(pixels[..., 0])
        # A model for grey images reads colour files as grey.
        paths.append(str(folder / f"{i}.png"))
        (image.convert("RGB") if i % 2 else image).save(paths[-1])
        images.append(np.asarray(image.resize((32, 32), Image.Resampling.BILINEAR), float))
        labels.append(label)
    return paths, np.stack(images), np.array(labels)


def probabilities(path, images):
    """Return the probabilities of the trained linear classifier, float [N, 10]."""
    run = pretrained.read_run(path)
    head = run.weights.variables["params"]["head"]
    normalised = (images / 255 - run.config["data.mean"]) / run.config["data.std"]
    scores = normalised.reshape(len(images), -1) @ head["kernel"] + head["bias"]
    scores = np.exp(scores - scores.max(axis=1, keepdims=True))
    return scores / scores.sum(axis=1, keepdims=True)


def predictions(capsys, *arguments):
    capsys.readouterr()  # drop the output of training
    assert main(["predict", *map(str, arguments)]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def check(found, paths, expected):
    assert [prediction["image"] for prediction in found] == paths
    for prediction, wanted in zip(found, expected, strict=True):
        order = [entry["class"] for entry in prediction["predictions"]]
        np.testing.assert_allclose(
            [entry["probability"] for entry in prediction["predictions"]], wanted[order], rtol=1e-4
        )
        assert order == list(np.argsort(-wanted))
        assert [entry["name"] for entry in prediction["predictions"]] == [str(k) for k in order]


def test_probabilities_are_those_of_numpy(run, files, capsys):
    paths, images, labels = files
    found = predictions(capsys, run, *paths, "--json", "--top=10")
    check(found, paths, probabilities(run, images))
    right = [prediction["predictions"][0]["class"] for prediction in found] == labels
    assert right.mean() > 0.5


def test_views_are_averaged_as_in_the_runs_evaluation(load_config, files, tmp_path, capsys):
    paths, images, _ = files
    path = trained(load_config, tmp_path / "run", overrides={"eval_preprocess": "resize(32)|flips"})
    expected = (probabilities(path, images) + probabilities(path, images[:, :, ::-1])) / 2
    check(predictions(capsys, path, *paths, "--json", "--top=10"), paths, expected)


def test_a_line_names_the_likeliest_classes(run, files, capsys):
    paths, images, _ = files
    assert main(["predict", str(run), paths[3], "--top=2"]) == 0
    wanted = probabilities(run, images[3:4])[0]
    first, second = np.argsort(-wanted)[:2]
    said = capsys.readouterr().out
    assert said == f"{paths[3]}: {first} {wanted[first]:.2%}, {second} {wanted[second]:.2%}\n"


def test_classes_are_numbers_without_the_dataset(load_config, files, tmp_path, capsys):
    paths, images, labels = files
    folder = tmp_path / "images"
    for path, label in zip(paths, labels, strict=True):
        for split in ("train", "val"):
            (folder / split / f"digit {label}").mkdir(parents=True, exist_ok=True)
            (folder / split / f"digit {label}" / path.rpartition("/")[2]).symlink_to(path)
    data = {"data.name": f"folder:{folder}", "data.eval_split": "val", "image_size": 32}
    # The presets of digits have one channel; folder images have three.
    more = {"data.mean": "0.5", "data.std": "0.5", "eval_preprocess": "resize(32)"}
    run = trained(load_config, tmp_path / "run", overrides={**data, **more})
    capsys.readouterr()
    assert main(["predict", str(run), paths[0], "--top=1"]) == 0
    named = capsys.readouterr().out
    assert named.startswith(f"{paths[0]}: digit ")
    folder.rename(tmp_path / "elsewhere")
    assert main(["predict", str(run), paths[0], "--top=1"]) == 0
    said = capsys.readouterr()
    assert said.out == named.replace(": digit ", ": ")
    assert said.err.startswith("class names are not available, classes are printed as numbers: ")
    assert said.err.count("\n") == 1


def test_mistakes(run, files, load_config, tmp_path, capsys):
    paths, text, cut = files[0], tmp_path / "notes.png", tmp_path / "cut.png"
    text.write_text("no image")
    with open(paths[0], "rb") as file:
        cut.write_bytes(file.read()[:-40])
    short = {"total_steps": 1, "batch_size": 8, "schedule.warmup_epochs": 0}
    short |= {"model.width": 12, "model.depth": 1, "model.decoder_depth": 1}
    mae = trained(load_config, tmp_path / "mae", "mae", short)
    capsys.readouterr()
    for arguments, message in (
        ([run, "nowhere.png"], "nowhere.png: no such file"),
        ([run, paths[0], text], f"{text}: unknown image format"),
        ([run, cut], f"{cut}: "),
        ([run, paths[0], "--top=0"], "--top=0 must be at least 1"),
        ([tmp_path, paths[0]], "is not a run directory"),
        ([mae, paths[0]], "which is not a classifier"),
    ):
        assert main(["predict", *map(str, arguments)]) == 2
        said = capsys.readouterr().err
        assert message in said
        assert said.count("\n") == 1
