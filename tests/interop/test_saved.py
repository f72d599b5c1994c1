"""cv_jax weight files: description, damage, and atomic replacement."""

import inspect
import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import cv_jax
from cv_jax import interop, models
from cv_jax.errors import InputError
from cv_jax.interop import disk, saved

SMALL = dict(stage_sizes=(1, 1), widths=(4, 8), stem_width=4)


@pytest.fixture
def weights():
    model = models.create("resnet18", num_classes=5, **SMALL)
    shapes = jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, 32, 32, 3), np.float32))
    rng = np.random.default_rng(0)
    variables = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), shapes)
    fields = dict(SMALL, num_classes=5)
    preprocessing = {"mean": [0.5, 0.5, 0.5], "crop_pct": 0.9}
    return saved.Saved(
        variables,
        "resnet18",
        fields,
        (32, 40),
        3,
        "timm",
        "hf-hub:someone/net",
        preprocessing,
        class_names=("a", "10", "2", "d e", "f"),
        evaluation={"eval_preprocess": "resize((32, 40), 'bicubic')"},
    )


def test_reads_what_was_written(tmp_path, weights):
    path = tmp_path / "new" / "weights.safetensors"
    saved.write(path, weights)
    back = saved.read(path)
    assert back._replace(variables=None) == weights._replace(variables=None)
    assert jax.tree.all(jax.tree.map(np.array_equal, back.variables, weights.variables))
    assert back.version == cv_jax.__version__
    models.create(back.model, **back.fields)
    assert list(path.parent.iterdir()) == [path]


def test_files_of_format_1_are_read(tmp_path, weights):
    """They have no names; timm's facts give the preprocessing, those of a run do not."""
    published = {"mean": [0.5] * 3, "crop_pct": 0.9, "interpolation": "bicubic"}
    text = "resize_small(35, 'bicubic')|central_crop(32)"
    for source, facts, expected in (
        ("timm", published, {"eval_preprocess": text}),
        ("torchvision", {}, {}),
        ("", {"mean": [0.5], "std": [0.5]}, {}),
    ):
        path = tmp_path / "old.safetensors"
        old = weights._replace(source=source, preprocessing=facts, image_size=(32, 32))
        saved.write(path, old)
        arrays, metadata = disk.read_safetensors(path)
        description = json.loads(metadata["cv_jax"])
        del description["class_names"], description["evaluation"]
        metadata = {"cv_jax": json.dumps({**description, "format": 1})}
        disk.write_safetensors(path, arrays, metadata)
        back = saved.read(path)._replace(variables=None)
        assert back == old._replace(variables=None, class_names=(), evaluation=expected)


def test_the_file_describes_itself(tmp_path, weights):
    path = tmp_path / "weights.safetensors"
    saved.write(path, weights)
    arrays = load_file(path)
    assert arrays["params/layer2_0/conv1/kernel"].shape == (3, 3, 4, 8)
    assert arrays["batch_stats/bn1/var"].shape == (4,)
    _, metadata = disk.read_safetensors(path)
    assert json.loads(metadata["cv_jax"])["model"] == "resnet18"


def test_the_file_has_default_permissions(tmp_path, weights):
    plain = tmp_path / "plain"
    plain.touch()
    saved.write(tmp_path / "weights.safetensors", weights)
    assert (tmp_path / "weights.safetensors").stat().st_mode == plain.stat().st_mode


def test_non_contiguous_arrays(tmp_path):
    """safetensors writes memory and ignores strides: views must be copied first."""
    array = np.arange(6.0, dtype=np.float32).reshape(2, 3)
    disk.write_safetensors(tmp_path / "x.safetensors", {"x": array.T, "y": array[:, ::2]}, {})
    arrays = load_file(tmp_path / "x.safetensors")
    np.testing.assert_array_equal(arrays["x"], array.T)
    np.testing.assert_array_equal(arrays["y"], array[:, ::2])


def test_fitted_to_another_model(weights):
    notes = []
    fields = dict(weights.fields, num_classes=7)
    fitted = saved.fit(weights, "resnet18", in_channels=1, report=notes.append, **fields)
    assert fitted["params"]["head"]["kernel"].shape == (8, 7)
    kernel = fitted["params"]["conv1"]["kernel"]
    expected = weights.variables["params"]["conv1"]["kernel"].sum(2, keepdims=True)
    np.testing.assert_array_equal(kernel, expected)
    assert len(notes) == 3
    same = saved.fit(weights, "resnet18", report=notes.append, **weights.fields)
    assert jax.tree.all(jax.tree.map(np.array_equal, same, weights.variables))
    assert len(notes) == 3


def test_an_unfit_model_lists_the_differences(weights):
    fields = dict(weights.fields, widths=(4, 16))
    with pytest.raises(InputError) as error:
        saved.fit(weights, "resnet18", **fields)
    assert "these weights do not fit the model: " in str(error.value)
    assert "misshapen params/layer2_0/conv1/kernel: expected (3, 3, 4, 16), got" in str(error.value)


def test_another_name_is_reported(weights):
    notes = []
    saved.fit(weights, "resnet34", report=notes.append, **weights.fields)
    assert notes == ["weights of resnet18 are used for resnet34"]


def test_a_file_of_another_library_is_refused(tmp_path):
    save_file({"x": np.zeros(3)}, tmp_path / "x.safetensors")
    with pytest.raises(InputError, match="was not written by cv_jax"):
        saved.read(tmp_path / "x.safetensors")


def test_a_newer_format_is_refused(tmp_path, weights, monkeypatch):
    monkeypatch.setattr(saved, "FORMAT", saved.FORMAT + 1)
    saved.write(tmp_path / "x.safetensors", weights)
    monkeypatch.undo()
    with pytest.raises(InputError, match="written by a newer cv_jax"):
        saved.read(tmp_path / "x.safetensors")


def test_damage_is_one_line(tmp_path, weights):
    path = tmp_path / "x.safetensors"
    saved.write(path, weights)
    whole = path.read_bytes()
    for damaged in (b"", whole[:100], whole[:-1], b"\xff" * 8 + whole[8:]):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match="cannot read") as error:
            saved.read(path)
        assert "\n" not in str(error.value)
    with pytest.raises(InputError, match="cannot read"):
        saved.read(tmp_path / "absent.safetensors")


def test_a_failed_write_leaves_the_old_file(tmp_path, weights, monkeypatch):
    path = tmp_path / "x.safetensors"
    saved.write(path, weights)
    before = path.read_bytes()

    def full(arrays, scratch, metadata):
        scratch.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.numpy.save_file", full)
    with pytest.raises(InputError, match=r"cannot write .*: No space left on device"):
        saved.write(path, weights)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_the_missing_extra_is_named(tmp_path, weights, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "safetensors.numpy", None)
    with pytest.raises(InputError, match=r'pip install "cv_jax\[weights\]"'):
        saved.write(tmp_path / "x.safetensors", weights)


def test_flat_and_nested_are_inverse(weights):
    flat = interop.flatten(weights.variables)
    assert "params/layer1_0/bn1/scale" in flat
    assert jax.tree.all(jax.tree.map(np.array_equal, interop.unflatten(flat), weights.variables))


@pytest.mark.parametrize(
    "function", [interop.Target.__init__, saved.fit, interop.load, interop.export]
)
def test_fields_of_models_are_no_other_parameters(function):
    """Fields are keyword arguments, such as AlexNet's `channels`."""
    own = {
        name
        for name, x in inspect.signature(function).parameters.items()
        if x.kind != x.VAR_KEYWORD
    }
    shared = {"image_size", "num_classes"}  # mean the field
    for name in models.MODELS:
        assert not (own - shared) & set(models.fields(name)), name
