"""Tests of `python -m cv_jax look` and `features` on a file of weights, a run and image files."""

import csv
import json

import jax
import numpy as np
import pyarrow.parquet
import pytest
from PIL import Image

from cv_jax import models
from cv_jax.__main__ import main
from cv_jax.inspect import receptive_field
from cv_jax.inspect.primitives import RULES
from cv_jax.interop import saved

FIELDS = dict(patch_size=8, width=12, depth=2, num_heads=2, num_classes=3)
NAMES = ("cat", "dog", "\x1b[31mfox\n")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Return a file of weights of a small ViT for images of 16×16."""
    model = models.create("vit_ti16", image_size=(16, 16), **FIELDS)
    variables = model.init(jax.random.key(0), np.zeros((1, 16, 16, 3), np.float32))
    head = jax.random.normal(jax.random.key(1), (12, 3))
    variables["params"]["head"]["kernel"] = head  # not zero: classes differ
    path = tmp_path_factory.mktemp("weights") / "vit.safetensors"
    net = saved.Saved(
        jax.tree.map(np.asarray, variables),
        "vit_ti16",
        FIELDS,
        (16, 16),
        3,
        preprocessing={"mean": (0.5,), "std": (0.25,)},
        class_names=NAMES,
        evaluation={"eval_preprocess": "resize(16)"},
    )
    saved.write(path, net)
    return path


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for i in range(5):
        Image.fromarray(rng.integers(0, 256, (20, 20, 3), np.uint8)).save(folder / f"{i}.png")
    return folder


def test_an_analysis_without_a_rule_for_a_primitive(weights, images, tmp_path, monkeypatch, capsys):
    monkeypatch.delitem(RULES, "conv_general_dilated")
    receptive_field._traced.cache_clear()  # a test before may have traced the network
    out = ["--out", str(tmp_path / "look")]
    assert main(["look", str(weights), "attention", "filters", "--images", str(images), *out]) == 0
    printed = capsys.readouterr().out
    assert "attention: does not apply: no dependence rule for the primitive 'conv_gen" in printed
    assert "\nfilters: " in printed


def test_pictures_and_numbers(weights, images, tmp_path, capsys):
    out = tmp_path / "look"
    what = ["filters", "attention", "errors"]
    assert main(["look", str(weights), *what, "--images", str(images), "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "attention_distance: mean distance" in printed
    assert "errors: does not apply: it needs a split of labelled images: --split" in printed
    for name in ("filters", "attention_maps", "attention_distance"):
        picture = Image.open(out / f"{name}.png")
        assert min(picture.size) >= 300
        with open(out / f"{name}.csv") as file:
            rows = list(csv.DictReader(file))
        assert rows
    found = json.loads((out / "look.json").read_text())
    assert found["images"] == [f"{i}.png" for i in range(5)]
    rows = found["attention"]["attention_distance"]["rows"]
    assert [(row["layer"], row["head"]) for row in rows] == [
        (f"blocks_{i}/attention", head) for i in (0, 1) for head in (1, 2)
    ]
    assert found["errors"] == {"does_not_apply": "it needs a split of labelled images: --split"}

    assert main(["look", str(weights), "--images", str(images), "--out", str(out)]) == 2
    assert f"{out} holds results; choose another --out, or add --force" in capsys.readouterr().err


def test_names_reach_the_terminal_escaped(weights, images, tmp_path, capsys):
    arguments = ["look", str(weights), "saliency", "--images", str(images / "0.png")]
    assert main([*arguments, "--class", NAMES[2], "--out", str(tmp_path)]) == 0
    assert "\x1b" not in capsys.readouterr().out


def test_reconstruction_of_files(images, tmp_path, capsys):
    fields = dict(patch_size=4, width=12, depth=1, num_heads=2)
    fields |= dict(decoder_width=8, decoder_depth=1, decoder_num_heads=2)
    model = models.create("mae_vit_b16", image_size=(16, 16), **fields)
    inputs = np.zeros((1, 16, 16, 3), np.float32), np.zeros((1, 16), np.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), *inputs)
    path, out = tmp_path / "mae.safetensors", tmp_path / "look"
    net = saved.Saved(
        jax.tree.map(lambda x: np.full(x.shape, 0.1, x.dtype), shapes),
        "mae_vit_b16",
        fields,
        (16, 16),
        3,
        preprocessing={"mean": (0.5,), "std": (0.25,)},
        evaluation={"eval_preprocess": "resize(16)"},
    )
    saved.write(path, net)
    where = ["--images", str(images), "--count", "2", "--out", str(out)]
    assert main(["look", str(path), "reconstruction", *where]) == 0
    printed = capsys.readouterr().out
    assert "reconstruction: the mean squared error over removed patches is" in printed
    rows = json.loads((out / "look.json").read_text())["reconstruction"]["reconstruction"]["rows"]
    assert [row["removed"] for row in rows] == [0.75] * 2
    assert min(Image.open(out / "reconstruction.png").size) >= 300


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["attentoin"], "unknown analysis 'attentoin'; allowed: filters"),
        (["--count", "0"], "--count=0 must be at least 1"),
        (["--images", "nowhere.png"], "nowhere.png: no such file or folder"),
        ([], "names no dataset; add --data"),
        (["--images", "x.png", "--split", "test"], "--images and --split or --data do not go"),
    ],
)
def test_mistakes(arguments, message, weights, tmp_path, capsys):
    assert main(["look", str(weights), *arguments, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("suffix", [".npz", ".parquet"])
def test_features(suffix, weights, images, tmp_path, capsys):
    """The written features are those of the model on the preprocessed files."""
    out = tmp_path / f"features{suffix}"
    arguments = ["features", str(weights), str(images), "--feature", "blocks_0", "--out", str(out)]
    assert main([*arguments, "--batch-size", "2"]) == 0
    net = saved.read(weights)
    model = models.create("vit_ti16", image_size=(16, 16), **FIELDS)
    pixels = [np.asarray(Image.open(images / f"{i}.png").resize((16, 16), 2)) for i in range(5)]
    batch = (np.stack(pixels) / 255 - 0.5) / 0.25
    _, expected = model.apply(net.variables, np.float32(batch))
    if suffix == ".npz":
        with np.load(out) as file:
            feature, names = file["feature"], file["name"].tolist()
    else:
        table = pyarrow.parquet.read_table(out)
        shape = json.loads(table.schema.metadata[b"shape"])
        feature = np.array(table["feature"].to_pylist()).reshape(5, *shape)
        names = table["name"].to_pylist()
    assert feature.shape == (5, 5, 12)
    assert names == [str(images / f"{i}.png") for i in range(5)]
    # Resizing differs by less than one grey level between Pillow's and the pipeline's filters.
    np.testing.assert_allclose(feature, expected["blocks_0"], atol=0.05)
    assert not list(tmp_path.glob("*.parts"))

    assert main(arguments) == 2
    assert f"{out} exists; add --force" in capsys.readouterr().err


def test_a_stopped_extraction_continues(weights, images, tmp_path, capsys, monkeypatch):
    from cv_jax.inspect import feature_files

    arguments = ["features", str(weights), str(images), "--feature", "pre_logits"]
    whole, parted = tmp_path / "whole.npz", tmp_path / "parted.npz"
    assert main([*arguments, "--batch-size", "2", "--out", str(whole)]) == 0

    write, written = feature_files.Parts.write, []

    def stop_after_one(self, part):
        if written:
            raise KeyboardInterrupt
        written.append(part)
        write(self, part)

    monkeypatch.setattr(feature_files.Parts, "write", stop_after_one)
    with pytest.raises(KeyboardInterrupt):
        main([*arguments, "--batch-size", "2", "--out", str(parted)])
    monkeypatch.setattr(feature_files.Parts, "write", write)
    assert main([*arguments, "--batch-size", "3", "--out", str(parted)]) == 2
    assert "another extraction (batch_size differs)" in capsys.readouterr().err
    assert main([*arguments, "--batch-size", "2", "--out", str(parted)]) == 0
    assert "continuing at batch 1 of 3" in capsys.readouterr().err
    with np.load(whole) as a, np.load(parted) as b:
        assert all((a[key] == b[key]).all() for key in ("feature", "label", "name"))


def test_list_of_features(weights, images, capsys):
    assert main(["features", str(weights), str(images), "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "embed  5x12"
    assert lines[-1] == "pre_logits  12"


def test_unknown_feature(weights, images, tmp_path, capsys):
    out = str(tmp_path / "f.npz")
    assert main(["features", str(weights), str(images), "--feature", "fc9", "--out", out]) == 2
    assert "no feature 'fc9'; allowed: embed, blocks_0/attention" in capsys.readouterr().err
