"""The command `convert` on small local files in the original layouts; no network, no torch."""

import json
import pathlib
import shutil
import sys
import types

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from cv_jax import __main__, models
from cv_jax.interop import saved

SHAPES = pathlib.Path(__file__).parents[1] / "golden" / "shapes" / "timm-resnet18.json"
# Written by timm's `save_for_hf`.
CONFIG = {
    "architecture": "resnet18",
    "num_classes": 10,
    "num_features": 512,
    "global_pool": "avg",
    "pretrained_cfg": {
        "tag": "a1_in1k",
        "custom_load": False,
        "input_size": [3, 64, 96],
        "test_input_size": [3, 288, 288],
        "fixed_input_size": False,
        "interpolation": "bicubic",
        "crop_pct": 0.95,
        "test_crop_pct": 1.0,
        "crop_mode": "center",
        "mean": [0.4, 0.5, 0.6],
        "std": [0.2, 0.2, 0.2],
        "num_classes": 10,
        "pool_size": [7, 7],
        "first_conv": "conv1",
        "classifier": "fc",
    },
}


@pytest.fixture(scope="module")
def state_dict():
    """A ResNet-18 of 10 classes with timm's names; every array is random."""
    rng = np.random.default_rng(0)
    shapes = json.loads(SHAPES.read_text())
    shapes.update({"fc.weight": [10, 512], "fc.bias": [10]})
    arrays = {key: rng.random(shape, np.float32) for key, shape in shapes.items()}
    return {
        key: np.zeros((), np.int64) if key.endswith("tracked") else x for key, x in arrays.items()
    }


@pytest.fixture(scope="module")
def folder(state_dict, tmp_path_factory):
    """A folder in the Hub's layout; read-only for the tests."""
    path = tmp_path_factory.mktemp("hub")
    (path / "config.json").write_text(json.dumps(CONFIG))
    save_file(state_dict, path / "model.safetensors", {"format": "pt"})
    return path


@pytest.fixture
def convert(capsys):
    """Run the command: (exit code, standard output, standard error)."""

    def run(*arguments):
        code = __main__.main(["convert", *map(str, arguments)])
        output = capsys.readouterr()
        return code, output.out, output.err

    return run


def same(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[key], b[key]) for key in a)


def test_folder_to_ours_and_back(folder, state_dict, convert, tmp_path):
    ours, back = tmp_path / "ours.safetensors", tmp_path / "back"
    code, out, _ = convert(folder, ours)
    assert code == 0
    # 11,689,512 as published, minus 990 classes of 512 weights and a bias each.
    assert out == f"{ours}: resnet18 as ours, 11,181,642 parameters\n"
    weights = saved.read(ours)
    assert (weights.model, weights.source, weights.origin) == ("resnet18", "timm", str(folder))
    assert (weights.image_size, weights.channels) == ((64, 96), 3)
    assert weights.fields == {"num_classes": 10}
    assert weights.preprocessing["mean"] == [0.4, 0.5, 0.6]
    kernel = weights.variables["params"]["layer3_1"]["conv2"]["kernel"]
    assert np.array_equal(kernel, state_dict["layer3.1.conv2.weight"].transpose(2, 3, 1, 0))

    assert convert(ours, back)[0] == 0
    assert same(load_file(back / "model.safetensors"), state_dict)
    config = json.loads((back / "config.json").read_text())
    assert (config["architecture"], config["num_classes"]) == ("resnet18", 10)
    for key in ("input_size", "test_input_size", "mean", "crop_pct", "first_conv", "classifier"):
        assert config["pretrained_cfg"][key] == CONFIG["pretrained_cfg"][key]
    assert convert(back, tmp_path / "again.safetensors")[0] == 0
    again = saved.read(tmp_path / "again.safetensors")
    assert jax.tree.all(jax.tree.map(np.array_equal, again.variables, weights.variables))


def test_the_model_runs(folder, convert, tmp_path):
    ours = tmp_path / "ours.safetensors"
    convert(folder, ours, "--image-size", "32x48", "--num-classes", "3", "--channels", "1")
    weights = saved.read(ours)
    assert weights.image_size == (32, 48)
    model = models.create(weights.model, **weights.fields)
    image = np.ones((2, *weights.image_size, weights.channels), np.float32)
    logits, _ = jax.jit(model.apply)(weights.variables, image)
    assert logits.shape == (2, 3)


def test_what_was_changed_is_printed(folder, convert, tmp_path):
    ours = tmp_path / "ours.safetensors"
    _, out, _ = convert(folder, ours, "--num-classes", "3", "--channels", "1")
    notes = [line for line in out.splitlines() if line.startswith("note: ")]
    assert notes == [
        "note: params/conv1/kernel: adapted from 3 to 1 input channels",
        "note: classifier of 10 classes dropped",
        "note: params/head/bias and params/head/kernel newly initialised",
    ]
    preprocessing = saved.read(ours).preprocessing
    assert preprocessing["mean"] == [pytest.approx(0.5)]
    assert preprocessing["test_input_size"] == [1, 288, 288]
    # From one cv_jax file to another, with other classes.
    code, out, _ = convert(ours, tmp_path / "b.safetensors", "--to", "ours", "--num-classes", 0)
    assert code == 0
    assert "classifier of 3 classes dropped" in out
    assert saved.read(tmp_path / "b.safetensors").fields == {"num_classes": 0}


def test_plain_files(folder, state_dict, convert, tmp_path):
    """A bare state dict names neither model nor source; torchvision's ResNet has timm's names."""
    bare = folder / "model.safetensors"
    arguments = ("--model", "resnet18", "--source", "torchvision")
    assert convert(bare, tmp_path / "a.safetensors", *arguments)[0] == 0
    assert convert(tmp_path / "a.safetensors", tmp_path / "b.npz")[0] == 0
    with np.load(tmp_path / "b.npz") as file:
        assert same(dict(file), state_dict)
    assert convert(tmp_path / "b.npz", tmp_path / "c.safetensors", *arguments)[0] == 0
    assert convert(bare, tmp_path / "d.safetensors", *arguments, "--to", "timm")[0] == 0
    assert same(load_file(tmp_path / "d.safetensors"), state_dict)


def test_fields_choose_a_variant(convert, tmp_path):
    """Fields select a ResNet with three blocks fewer; `config.json` of a folder describes it."""
    fields = dict(stage_sizes=(1, 1, 1, 2), num_classes=2)
    model = models.create("resnet18", **fields)
    shapes = jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, 32, 32, 3), np.float32))
    variables = jax.tree.map(lambda x: np.ones(x.shape, np.float32), shapes)
    start, file = tmp_path / "start.safetensors", tmp_path / "file.safetensors"
    saved.write(start, saved.Saved(variables, "resnet18", fields, (32, 32), 3))
    assert convert(start, tmp_path / "folder", "--to", "timm")[0] == 0
    assert convert(tmp_path / "folder", tmp_path / "back.safetensors")[0] == 0
    assert saved.read(tmp_path / "back.safetensors").fields == fields
    assert convert(start, file, "--to", "timm")[0] == 0
    arguments = ("--model", "resnet18", "--source", "timm", "--fields", "stage_sizes=(1,1,1,2)")
    assert convert(file, tmp_path / "ours.safetensors", *arguments)[0] == 0
    assert saved.read(tmp_path / "ours.safetensors").fields == fields


def test_nothing_is_overwritten_without_force(folder, convert, tmp_path):
    dest = tmp_path / "a.safetensors"
    dest.write_text("precious")
    code, _, error = convert(folder, dest)
    assert code == 2
    assert error == f"error: {dest} exists; choose another name, or add --force to replace it\n"
    assert dest.read_text() == "precious"
    assert convert(folder, dest, "--force")[0] == 0
    assert saved.read(dest).model == "resnet18"
    # A folder keeps its other files.
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / "README.md").write_text("mine")
    assert convert(dest, tmp_path / "f")[0] == 2
    assert convert(dest, tmp_path / "f", "--force")[0] == 0
    assert sorted(path.name for path in (tmp_path / "f").iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["absent", "x.safetensors"],
            "absent does not exist; weights on the Hub are named hf-hub:",
        ),
        (["{folder}", "x.ckpt"], "x.ckpt: the name of a cv_jax file must end in .safetensors"),
        (["{folder}", "x.safetensors", "--model", "resnet5"], "no counterpart of model 'resnet5'"),
        (
            ["{folder}", "x.safetensors", "--num-classes", "-1"],
            "--num-classes=-1 must be at least 0",
        ),
        (["{folder}", "x.safetensors", "--channels", "0"], "--channels=0 must be at least 1"),
        (["{folder}", "x.safetensors", "--fields", "wide=2"], "has no field 'wide'"),
        (["{folder}/model.safetensors", "x.safetensors"], "add --source torchvision|timm"),
        (["{folder}/config.json", "x.safetensors"], "allowed are .safetensors, .pth"),
        (
            ["{folder}/model.safetensors", "x.safetensors", "--source", "timm"],
            "add --model NAME",
        ),
        (
            ["{folder}", "x.safetensors", "--model", "vgg11"],
            "the weights do not fit vgg11 in the layout of timm: 20 missing, 102 unexpected",
        ),
    ],
)
def test_mistakes(folder, convert, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    code, _, error = convert(*(argument.format(folder=folder) for argument in arguments))
    assert code == 2
    assert message in error
    assert not list(tmp_path.iterdir())


def test_unusable_config_json_in_a_folder(folder, convert, tmp_path):
    shutil.copytree(folder, tmp_path / "f")
    config = tmp_path / "f" / "config.json"
    config.write_text(json.dumps({**CONFIG, "architecture": "convnext_tiny"}))
    code, _, error = convert(tmp_path / "f", tmp_path / "x.safetensors")
    assert code == 2
    assert "no cv_jax model corresponds to timm's 'convnext_tiny'" in error
    config.write_text("{")
    code, _, error = convert(tmp_path / "f", tmp_path / "x.safetensors")
    assert code == 2
    assert f"cannot read {config}" in error
    # Older files have no pretrained_cfg.
    config.write_text(json.dumps({"architecture": "resnet18", **CONFIG["pretrained_cfg"]}))
    assert convert(tmp_path / "f", tmp_path / "x.safetensors")[0] == 0
    assert saved.read(tmp_path / "x.safetensors").preprocessing["crop_pct"] == 0.95
    (tmp_path / "f" / "model.safetensors").unlink()
    code, _, error = convert(tmp_path / "f", tmp_path / "y.safetensors")
    assert code == 2
    assert "holds neither model.safetensors nor pytorch_model.bin" in error


def test_from_the_hub(folder, convert, tmp_path, monkeypatch):
    """The Hub's client downloads both files at the given revision."""
    hub = types.ModuleType("huggingface_hub")
    hub.errors = types.SimpleNamespace(EntryNotFoundError=KeyError)
    asked = []

    def download(name, file, revision):
        asked.append((name, file, revision))
        return str(folder / file)

    hub.hf_hub_download = download
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    ours = tmp_path / "x.safetensors"
    assert convert("hf-hub:timm/resnet18.a1_in1k@abc", ours)[0] == 0
    assert asked == [
        ("timm/resnet18.a1_in1k", "config.json", "abc"),
        ("timm/resnet18.a1_in1k", "model.safetensors", "abc"),
    ]
    assert saved.read(ours).origin == "hf-hub:timm/resnet18.a1_in1k@abc"


def test_the_hub_out_of_reach(convert, tmp_path, monkeypatch):
    hub = types.ModuleType("huggingface_hub")

    def offline(name, file, revision):
        raise ConnectionError("Name or service not known\nand much more")

    hub.hf_hub_download = offline
    hub.errors = types.SimpleNamespace(EntryNotFoundError=KeyError)
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    code, _, error = convert("hf-hub:timm/resnet18.a1_in1k", tmp_path / "x.safetensors")
    assert code == 2
    assert error.startswith(
        "error: cannot download hf-hub:timm/resnet18.a1_in1k: Name or service not known (a local "
    )
    assert error.count("\n") == 1
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    code, _, error = convert("hf-hub:timm/resnet18.a1_in1k", tmp_path / "x.safetensors")
    assert code == 2
    assert 'pip install "cv_jax[weights]"' in error


class Tensor:
    """The part of a torch tensor that the reader uses."""

    def __init__(self, array):
        self.array, self.dtype = array, array.dtype

    def detach(self):
        return self

    def numpy(self):
        return self.array


@pytest.mark.parametrize("nested", [None, "model", "state_dict"])
def test_pickled_files(state_dict, convert, tmp_path, monkeypatch, nested):
    """torch reads them without running their code; wrappers of training scripts are removed."""
    tensors = {f"module.{key}": Tensor(x) for key, x in state_dict.items()}

    def load(path, map_location, weights_only):
        assert (path.name, map_location, weights_only) == ("x.pth", "cpu", True)
        return tensors if nested is None else {nested: tensors, "epoch": 3}

    torch = types.ModuleType("torch")
    torch.load, torch.bfloat16 = load, "bfloat16"
    monkeypatch.setitem(sys.modules, "torch", torch)
    (tmp_path / "x.pth").touch()
    arguments = (tmp_path / "x.pth", "--model", "resnet18", "--source", "timm")
    assert convert(*arguments[:1], tmp_path / "x.safetensors", *arguments[1:])[0] == 0
    assert convert(tmp_path / "x.safetensors", tmp_path / "y.safetensors", "--to", "timm")[0] == 0
    assert same(load_file(tmp_path / "y.safetensors"), state_dict)


def test_pickled_files_without_torch(convert, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    (tmp_path / "x.pth").touch()
    code, _, error = convert(tmp_path / "x.pth", tmp_path / "x.safetensors")
    assert code == 2
    assert error == (
        "error: .pth files need PyTorch (pip install torch); .safetensors files do not\n"
    )
