"""Folders for timm: the values of config.json. test_timm_exports.py runs such folders in timm."""

import json

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file

from cv_jax import models
from cv_jax.errors import InputError
from cv_jax.interop import hub_folder, place, saved
from cv_jax.models.encoder import stack_blocks

SMALL = dict(width=16, depth=1, num_heads=2)
SWIN = dict(width=8, depths=(1, 1), num_heads=(1, 2), window_size=4)
CENTRE = "resize_small(36, 'bicubic')|central_crop(32)"


def weights_of(name, fields, size=(32, 32), channels=3, **more) -> saved.Saved:
    """Return weights of ones, of three classes."""
    fields = {"num_classes": 3, **fields}
    sized = {"image_size": size} if "image_size" in models.fields(name) else {}
    model = models.create(name, **sized, **fields)
    image = np.zeros((1, *size, channels), np.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), image)
    variables = jax.tree.map(lambda x: np.ones(x.shape, np.float32), shapes)
    facts = {"mean": [0.4], "std": [0.2, 0.3, 0.4][:channels]}
    facts = {**facts, "crop_pct": 0.5, "test_crop_pct": 1.0}
    return saved.Saved(variables, name, fields, size, channels, preprocessing=facts, **more)


def written(folder, weights, notes=None) -> dict:
    hub_folder.write(folder, weights, "timm", ([] if notes is None else notes).append)
    return json.loads((folder / "config.json").read_text())


def test_the_whole_file(tmp_path):
    weights = weights_of(
        "vit_ti16",
        dict(drop_path_rate=0.1, dropout_rate=0.1, attention_weights=True, dtype="bfloat16"),
        (32, 32),
        class_names=("10", "2", "b"),
        evaluation={"eval_preprocess": CENTRE, "loss.name": "softmax"},
    )
    notes = []
    assert written(tmp_path / "f", weights, notes) == {
        "architecture": "vit_tiny_patch16_224",
        "num_classes": 3,
        "model_args": {"in_chans": 3},
        "pretrained_cfg": {
            "mean": [0.4, 0.4, 0.4],
            "std": [0.2, 0.3, 0.4],
            "test_crop_pct": 1.0,
            "crop_pct": 32 / 36,
            "interpolation": "bicubic",
            "crop_mode": "center",
            "input_size": [3, 32, 32],
            "fixed_input_size": True,
            "num_classes": 3,
            "label_names": ["10", "2", "b"],
            "first_conv": "patch_embed.proj",
            "classifier": "head",
        },
    }
    assert not notes


@pytest.mark.parametrize(
    ("model", "fields", "name", "arguments"),
    [
        ("resnet18", {}, "resnet18", {}),
        ("resnet18", dict(pool="max"), "resnet18", dict(global_pool="max")),
        ("resnet50", dict(groups=32, width_per_group=4), "resnext50_32x4d", {}),
        ("resnet50", dict(stage_sizes=(1, 1, 1, 1)), "resnet50", dict(layers=[1, 1, 1, 1])),
        ("vit_ti16", SMALL, "vit_tiny_patch16_224", dict(embed_dim=16, depth=1, num_heads=2)),
        (
            "vit_ti16",
            dict(depth=1, pool="mean"),
            "vit_tiny_patch16_224",
            dict(depth=1, global_pool="avg", class_token=False, fc_norm=False),
        ),
        (
            "vit_ti16",
            dict(depth=1, registers=2, layer_scale=0.1, pos_embed_prefix=False),
            "vit_tiny_patch16_224",
            dict(
                **dict(depth=1, reg_tokens=2, init_values=0.1, no_embed_class=True),
                **dict(global_pool="token", class_token=True, fc_norm=False),
            ),
        ),
        ("deit_ti16_distilled", dict(depth=1), "deit_tiny_distilled_patch16_224", dict(depth=1)),
        (
            "swin_t",
            dict(SWIN, window_rule="pad"),  # the windows divide all maps
            "swin_tiny_patch4_window7_224",
            dict(embed_dim=8, depths=[1, 1], num_heads=[1, 2], window_size=4),
        ),
    ],
)
def test_names_and_arguments(tmp_path, model, fields, name, arguments):
    weights = weights_of(model, fields)
    config = written(tmp_path / "f", weights)
    assert config["architecture"] == name
    assert config["model_args"] == {"in_chans": 3, **arguments}
    back = place.read(str(tmp_path / "f"), [].append)
    assert back.image_size == (32, 32)
    assert jax.tree.all(jax.tree.map(np.array_equal, back.variables, weights.variables))


@pytest.mark.parametrize(
    ("model", "fields", "unknown"),
    [
        ("vit_ti16", dict(depth=1, pos_embed="sincos"), "pos_embed='sincos'"),
        ("vit_ti16", dict(depth=1, norm_epsilon=1e-12), "norm_epsilon=1e-12"),
        ("vit_ti16", dict(depth=1, pool="cls_mean"), "pool='cls_mean'"),
        ("resnet18", dict(stem="cifar"), "stem='cifar'"),
        ("swin_t", dict(SWIN, window_size=3, window_rule="pad"), "window_rule='pad'"),
    ],
)
def test_a_network_that_timm_lacks_is_refused_with_its_fields(tmp_path, model, fields, unknown):
    weights = weights_of(model, fields)
    with pytest.raises(InputError) as error:
        hub_folder.write(tmp_path / "f", weights, "timm", print)
    assert f"timm has no {model} with {unknown}, so config.json" in str(error.value)
    assert not (tmp_path / "f").exists()
    if model != "resnet18":
        hub_folder.write(tmp_path / "f.npz", weights, "timm", print)


def test_a_transform_that_timm_lacks_is_a_note(tmp_path):
    text = "resize((32, 40))|central_crop(32)"
    weights = weights_of("resnet18", {}, evaluation={"eval_preprocess": text})
    notes = []
    config = written(tmp_path / "f", weights, notes)
    assert notes == [
        f"timm has no transform for eval_preprocess={text!r}; its own default replaces it in "
        "timm.data.create_transform"
    ]
    assert "crop_pct" not in config["pretrained_cfg"]
    assert config["pretrained_cfg"]["mean"] == [0.4] * 3


def test_two_classifiers_are_both_named(tmp_path):
    """timm drops them for another number of classes."""
    config = written(tmp_path / "f", weights_of("deit_ti16_distilled", dict(depth=1)))
    assert config["pretrained_cfg"]["classifier"] == ["head", "head_dist"]
    config = written(tmp_path / "g", weights_of("vit_ti16", dict(SMALL, num_classes=0)))
    assert "classifier" not in config["pretrained_cfg"]
    assert config["num_classes"] == 0


def test_scanned_blocks_are_written_block_by_block(tmp_path):
    weights = weights_of("vit_ti16", dict(SMALL, depth=2))
    scanned = {"params": stack_blocks(weights.variables["params"])}
    scanned = weights._replace(variables=scanned, fields={**weights.fields, "scan_layers": True})
    for folder, saved_weights in (("a", weights), ("b", scanned)):
        written(tmp_path / folder, saved_weights)
    a, b = (load_file(tmp_path / name / "model.safetensors") for name in ("a", "b"))
    assert a.keys() == b.keys()


def test_bfloat16_in_files_without_the_type(tmp_path):
    weights = weights_of("vit_ti16", SMALL)
    narrow = jax.tree.map(lambda x: x.astype(ml_dtypes.bfloat16), weights.variables)
    hub_folder.write(tmp_path / "x.npz", weights._replace(variables=narrow), "timm", print)
    with np.load(tmp_path / "x.npz") as file:
        assert {x.dtype for x in dict(file).values()} == {np.dtype(np.float32)}


def test_folders_are_for_timm(tmp_path):
    with pytest.raises(
        InputError, match="config.json in a folder is timm's; for torchvision, write a"
    ):
        hub_folder.write(tmp_path / "f", weights_of("resnet18", {}), "torchvision", print)
