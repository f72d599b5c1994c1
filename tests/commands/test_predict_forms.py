"""`predict` as CSV, and with a picture of the evidence for each image."""

import csv
import io
import json

import jax
import numpy as np
import pytest
from PIL import Image

from cv_jax import models
from cv_jax.__main__ import main
from cv_jax.inspect import saliency
from cv_jax.inspect.look import explanation
from cv_jax.interop import saved

FIELDS = dict(num_classes=3, stage_sizes=(1, 1), widths=(4, 8), stem_width=4)
NAMES = ("cat, big", 'do"g', "\x1b[31mfox")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Weights of a small ResNet and of a linear classifier, and three images."""
    folder = tmp_path_factory.mktemp("forms")
    draw = np.random.default_rng(0)
    for name, fields in (("resnet18", FIELDS), ("linear", {"num_classes": 3})):
        size = {"image_size": (32, 32)} if "image_size" in models.fields(name) else {}
        model = models.create(name, **fields, **size)
        variables = model.init(jax.random.key(0), np.zeros((1, 32, 32, 3), np.float32))
        variables = jax.tree.map(lambda x: draw.normal(0.1, 0.3, x.shape).astype("f4"), variables)
        if "batch_stats" in variables:
            variables["batch_stats"] = jax.tree.map(lambda x: abs(x) + 1, variables["batch_stats"])
        net = saved.Saved(
            variables,
            name,
            fields,
            (32, 32),
            3,
            preprocessing={"mean": (0.5,), "std": (0.25,)},
            class_names=NAMES,
            evaluation={"eval_preprocess": "resize(32)"},
        )
        saved.write(folder / f"{name}.safetensors", net)
    for i in range(3):
        pixels = draw.integers(0, 256, (32, 32, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    return folder


def run(capsys, *words, code=0):
    capsys.readouterr()
    assert main(["predict", *map(str, words)]) == code
    return capsys.readouterr()


def test_csv_has_the_values_of_json(folder, capsys):
    words = folder / "resnet18.safetensors", folder
    objects = [json.loads(x) for x in run(capsys, *words, "--json").out.splitlines()]
    rows = list(csv.DictReader(io.StringIO(run(capsys, *words, "--csv").out)))
    assert list(rows[0]) == ["image", "rank", "class", "name", "probability"]
    expected = [
        (one["image"], rank, row["class"], row["name"].replace("\x1b", r"\x1b"), row["probability"])
        for one in objects
        for rank, row in enumerate(one["predictions"], 1)
    ]
    found = [
        (r["image"], int(r["rank"]), int(r["class"]), r["name"], float(r["probability"]))
        for r in rows
    ]
    assert found == expected
    assert len(found) == 9


def test_every_image_gets_its_own_map(folder, tmp_path, capsys, monkeypatch):
    """The map is Grad-CAM of the most probable class, computed for one image at a time."""
    drawn = {}
    draw = explanation.draw

    def kept(file, pixels, values, title, feature):
        drawn[file.name] = pixels, values, title, feature
        draw(file, pixels, values, title, feature)

    monkeypatch.setattr(explanation, "draw", kept)
    out = tmp_path / "out"
    words = folder / "resnet18.safetensors", folder, "--explain", "gradcam", "--out", out
    objects = [json.loads(x) for x in run(capsys, *words, "--json").out.splitlines()]
    net = saved.read(folder / "resnet18.safetensors")
    model = models.create("resnet18", **FIELDS)
    for i, one in enumerate(objects):
        assert one["explanation"] == str(out / f"0000{i}-{i}.png")
        with Image.open(one["explanation"]) as picture:
            assert min(picture.size) > 300
        pixels, values, title, feature = drawn[f"0000{i}-{i}.png"]
        image = np.asarray(Image.open(folder / f"{i}.png"))
        np.testing.assert_array_equal(pixels, image)
        best = one["predictions"][0]
        normalised = (image[None] / np.float32(255) - 0.5) / 0.25
        classes = np.array([best["class"]])
        expected = saliency.grad_cam(model, net.variables, normalised.astype("f4"), classes)[0]
        np.testing.assert_allclose(values, expected, rtol=1e-3, atol=1e-4 * abs(expected).max())
        assert title == f"{i}.png: {best['name']} {best['probability']:.1%}"
    # Nothing is overwritten without --force.
    assert "holds files; choose another --out, or add --force" in run(capsys, *words, code=2).err
    run(capsys, *words, "--force")


def test_mistakes(folder, tmp_path, capsys):
    net, image = folder / "resnet18.safetensors", folder / "0.png"
    linear = folder / "linear.safetensors"
    explain = ("--explain", "gradcam", "--out", tmp_path / "new")
    cases = {
        (linear, image, *explain): "--explain: Grad-CAM does not apply: ",
        (net, image, "--explain", "x"): "argument --explain: invalid choice: 'x'",
        (net, image, "--out", tmp_path / "new"): "--out needs --explain",
        (net, image, "--csv", "--json"): "not allowed with argument",
        (net, image, *explain, "--preprocess", "resize(40)|ten_crop(32)"): "one view of each image",
    }
    for words, message in cases.items():
        assert message in run(capsys, *words, code=2).err
    assert not (tmp_path / "new").exists()
