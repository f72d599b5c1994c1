"""The grid of the training images: from the file, or from `convert --trained-size`."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from cv_jax import __main__, interop, models
from cv_jax.interop import saved
from cv_jax.models.positions import resize_positions

WIDTH = 12
FIELDS = f"width={WIDTH},depth=1"
ARGUMENTS = {"embed_dim": WIDTH, "depth": 1, "num_classes": 5, "img_size": [64, 256]}


@pytest.fixture
def state_dict():
    """timm's ViT of one block for images of 64x256: 4x16 patches, as many as 8x8."""
    rng = np.random.default_rng(0)
    fields = dict(width=WIDTH, depth=1, num_classes=5)
    target = interop.Target("vit_ti16", image_size=(64, 256), **fields)
    arrays = {k: rng.normal(size=x.shape).astype(np.float32) for k, x in target.shapes.items()}
    variables = interop.unflatten(arrays)
    return interop.export("vit_ti16", "timm", variables, image_size=(64, 256), **fields)


@pytest.fixture
def convert(tmp_path, capsys):
    """Run the command: (positions of the result, standard output, standard error)."""

    def run(source, *arguments):
        ours = tmp_path / "ours.safetensors"
        code = __main__.main(["convert", str(source), str(ours), "--force", *arguments])
        output = capsys.readouterr()
        positions = saved.read(ours).variables["params"]["pos_embed"] if code == 0 else None
        return positions, output.out, output.err

    return run


@pytest.mark.parametrize("new", ["64x128", "128x128", "32x64", "64x256"])
def test_a_folder_states_the_size(new, state_dict, convert, tmp_path):
    """Also if the old and the new grid have equally many patches."""
    size = tuple(map(int, new.split("x")))
    grid = size[0] // 16, size[1] // 16
    save_file(state_dict, tmp_path / "model.safetensors")
    config = {"architecture": "vit_tiny_patch16_224", "num_classes": 5, "model_args": ARGUMENTS}
    (tmp_path / "config.json").write_text(json.dumps(config))
    got, said, _ = convert(tmp_path, "--image-size", new)
    expected = resize_positions(state_dict["pos_embed"], (4, 16), grid)
    np.testing.assert_array_equal(got, expected)
    resized = f"note: positions resized from 4x16 to {grid[0]}x{grid[1]} patches" in said
    assert resized == (new != "64x256")


def test_a_bare_file_needs_the_size(state_dict, convert, tmp_path):
    bare = tmp_path / "bare.safetensors"
    save_file(state_dict, bare)
    usual = ("--source", "timm", "--model", "vit_ti16", "--fields", FIELDS)
    _, _, error = convert(bare, *usual, "--image-size", "64x256")
    assert error == (
        "error: params/pos_embed: 64 positions form a grid of 8x8 or 4x16; state the size of the "
        "training images: --trained-size HEIGHTxWIDTH\n"
    )
    trained = ("--trained-size", "64x256")
    got, _, _ = convert(bare, *usual, "--image-size", "64x256", *trained)
    np.testing.assert_array_equal(got, state_dict["pos_embed"])
    got, _, _ = convert(bare, *usual, "--image-size", "64x128", *trained)
    expected = resize_positions(state_dict["pos_embed"], (4, 16), (4, 8))
    np.testing.assert_array_equal(got, expected)
    _, _, error = convert(bare, *usual, "--trained-size", "64x192")
    assert error == (
        "error: params/pos_embed has 65 positions; images of 64x192 with patches of 16x16 need "
        "1 + 4x12\n"
    )


def test_a_file_of_cv_jax_knows_its_size(state_dict, convert, tmp_path):
    bare = tmp_path / "bare.npz"
    np.savez(bare, **state_dict)
    usual = ("--source", "timm", "--model", "vit_ti16", "--fields", FIELDS)
    convert(bare, *usual, "--image-size", "64x256", "--trained-size", "64x256")
    kept = (tmp_path / "ours.safetensors").rename(tmp_path / "kept.safetensors")
    got, _, _ = convert(kept, "--to", "ours", "--image-size", "128x128")
    expected = resize_positions(state_dict["pos_embed"], (4, 16), (8, 8))
    np.testing.assert_array_equal(got, expected)
    _, _, error = convert(kept, "--to", "ours", "--trained-size", "128x128")
    assert error == f"error: --trained-size does not fit {kept}: its images have 64x256\n"


def test_timms_vgg_differs_on_large_images():
    from cv_jax.interop import timm_arguments

    assert models.fields("vgg11")["pool_size"] == 7
    assert timm_arguments.notes_on_size("vgg11", (224, 224)) == []
    (note,) = timm_arguments.notes_on_size("vgg16_bn", (224, 256))
    assert "its logits differ" in note
    assert timm_arguments.notes_on_size("resnet18", (256, 256)) == []
