"""`look` on weights in the layouts of timm and torchvision."""

import json
import pathlib

import numpy as np
import pytest
import recipe
from PIL import Image
from safetensors.numpy import save_file

from cv_jax.__main__ import main

FOLDER = pathlib.Path(__file__).parent
NETWORKS = json.loads((FOLDER / "timm_networks.json").read_text())

# Analysis that applies to all networks, and to networks with attention.
ALL, OF_ATTENTION = ("filters", "receptive-field", "layers", "cka"), ("attention", "rollout")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for i in range(4):
        shape = (60, 90 + i, 3)
        Image.fromarray(rng.integers(0, 256, shape, np.uint8)).save(folder / f"{i}.png")
    return folder


def look(place, what, images, out, *flags):
    command = ["look", str(place), *what, "--images", str(images)]
    assert main([*command, "--count", "4", "--out", str(out), *flags]) == 0
    return json.loads((out / "look.json").read_text())


@pytest.mark.parametrize(
    ("name", "attends"),
    [
        ("vit-registers", True),
        pytest.param("swin-windows", True, marks=pytest.mark.slow),
        pytest.param("resnet18-max", False, marks=pytest.mark.slow),
    ],
)
def test_a_folder_of_timm(name, attends, images, tmp_path):
    facts = NETWORKS[name]
    config = facts["config"]
    settings = {**config["pretrained_cfg"], "input_size": [3, *facts["image_size"]]}
    (tmp_path / "config.json").write_text(json.dumps({**config, "pretrained_cfg": settings}))
    arrays = recipe.state_dict({key: tuple(shape) for key, shape in facts["shapes"].items()})
    save_file(arrays, tmp_path / "model.safetensors")
    found = look(tmp_path, ALL + OF_ATTENTION, images, tmp_path / "look")
    for analysis in ALL:
        assert "does_not_apply" not in found[analysis], found[analysis]
    for analysis in OF_ATTENTION:
        assert ("does_not_apply" in found[analysis]) != attends
    if attends:
        layers = {row["layer"] for row in found["attention"]["attention_distance"]["rows"]}
        assert len(layers) == sum(key.endswith("attn.proj.weight") for key in arrays)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["resnet18", "swin_t"])
def test_a_converted_file_of_torchvision(model, images, tmp_path, capsys):
    shapes = json.loads((FOLDER / "shapes" / f"torchvision-{model}.json").read_text())
    save_file(recipe.state_dict(shapes), tmp_path / "torchvision.safetensors")
    weights = tmp_path / f"{model}.safetensors"
    source = str(tmp_path / "torchvision.safetensors")
    assert main(["convert", source, str(weights), "--model", model, "--source", "torchvision"]) == 0
    flags = ["--mean", "0.485,0.456,0.406", "--std", "0.229,0.224,0.225", "--preprocess"]
    if model == "swin_t":
        command = ["look", str(weights), "filters", "--images", str(images), *flags]
        assert main([*command, "resize(64)", "--out", str(tmp_path / "none")]) == 2
        message = f'images of 64x64 do not fit {weights} (For parameter "relative_position_bias'
        assert message in capsys.readouterr().err
        assert main([*command, "resize_small(64)", "--out", str(tmp_path / "none")]) == 2
        assert "add an operation that gives all images one size" in capsys.readouterr().err
    what = {"resnet18": ("filters", "cka", "layers"), "swin_t": ("filters", "attention")}[model]
    side = 64 if model == "resnet18" else 224
    found = look(weights, what, images, tmp_path / "look", *flags, f"resize({side})")
    for analysis in what:
        assert "does_not_apply" not in found[analysis], found[analysis]
