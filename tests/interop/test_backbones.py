"""Weights without a classifier start any classifier: MAE's encoder and DINOv2."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from cv_jax import __main__
from cv_jax.interop import pretrained, saved
from cv_jax.models.positions import resize_positions, sincos_2d

WIDTH, DEPTH, HEADS, DECODER = 16, 2, 2, 8
SIZES = f"width={WIDTH},depth={DEPTH},num_heads={HEADS}"
DECODER_SIZES = f"decoder_width={DECODER},decoder_depth=1,decoder_num_heads=2"


def block(name: str, width: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of one block in the official codes of MAE and DINOv2."""
    linears = {"attn.qkv": (3, 1), "attn.proj": (1, 1), "mlp.fc1": (4, 1), "mlp.fc2": (1, 4)}
    shapes = {}
    for layer, (outputs, inputs) in linears.items():
        shapes[f"{name}.{layer}.weight"] = (outputs * width, inputs * width)
        shapes[f"{name}.{layer}.bias"] = (outputs * width,)
    for layer in ("norm1", "norm2"):
        shapes[f"{name}.{layer}.weight"] = shapes[f"{name}.{layer}.bias"] = (width,)
    return shapes


def encoder(patch: int, positions: int) -> dict[str, tuple[int, ...]]:
    shapes = {"cls_token": (1, 1, WIDTH), "pos_embed": (1, positions, WIDTH)}
    shapes["patch_embed.proj.weight"] = (WIDTH, 3, patch, patch)
    shapes["patch_embed.proj.bias"] = shapes["norm.weight"] = shapes["norm.bias"] = (WIDTH,)
    for i in range(DEPTH):
        shapes |= block(f"blocks.{i}", WIDTH)
    return shapes


def decoder() -> dict[str, tuple[int, ...]]:
    shapes = {"mask_token": (1, 1, DECODER), "decoder_pos_embed": (1, 197, DECODER)}
    for layer, (outputs, inputs) in {
        "decoder_embed": (DECODER, WIDTH),
        "decoder_pred": (16 * 16 * 3, DECODER),
    }.items():
        shapes |= {f"{layer}.weight": (outputs, inputs), f"{layer}.bias": (outputs,)}
    shapes["decoder_norm.weight"] = shapes["decoder_norm.bias"] = (DECODER,)
    return shapes | block("decoder_blocks.0", DECODER)


def draw(shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {key: rng.normal(size=shape).astype(np.float32) for key, shape in shapes.items()}


def mae(with_decoder: bool) -> dict[str, np.ndarray]:
    """The official file for pre-training at 224 pixels: `mae_pretrain_vit_base[_full].pth`."""
    arrays = draw({**encoder(16, 197), **(decoder() if with_decoder else {})})
    for key, width in (("pos_embed", WIDTH), ("decoder_pos_embed", DECODER)):
        if key in arrays:
            arrays[key] = np.pad(sincos_2d(14, 14, width), ((1, 0), (0, 0)))[None]
    return arrays


def convert(*arguments) -> int:
    return __main__.main(["convert", *map(str, arguments)])


def start(load_config, config: str, path, argument="", **overrides):
    """Return the parameters with which a run of a config starts."""
    overrides = {"init_from": path, "model.width": WIDTH, "model.depth": DEPTH, **overrides}
    config = load_config(config, {"model.num_heads": HEADS, **overrides}, argument)
    size = config.image_size
    return pretrained.load(config, 1000, (size, size, 3))["params"]


@pytest.mark.parametrize("with_decoder", [False, True])
def test_the_official_encoder_of_mae_is_fine_tuned_and_probed(
    with_decoder, tmp_path, load_config, capsys
):
    """The command and the config of configs/mae_finetune.py, on a narrow network."""
    arrays, theirs = mae(with_decoder), tmp_path / "mae_pretrain_vit_base.safetensors"
    save_file({f"model.{key}": x for key, x in arrays.items()}, theirs)
    ours = tmp_path / "mae.safetensors"
    assert convert(theirs, ours, "--model", "vit_b16", "--source", "mae", "--fields", SIZES) == 0
    said = capsys.readouterr().out
    assert "note: the weights have no classifier" in said
    parts = "decoder_blocks, decoder_embed, decoder_norm, decoder_pos_embed, decoder_pred"
    assert (f"note: {parts}, mask_token dropped\n" in said) == with_decoder
    assert saved.read(ours).fields["num_classes"] == 0

    tuned = start(load_config, "mae_finetune", ours, "imagenet2012")
    probed = start(load_config, "mae_probe", ours, "imagenet2012")
    said = capsys.readouterr().out
    for params in (tuned, probed):
        kernel = params["blocks_1"]["attn"]["qkv"]["kernel"]
        np.testing.assert_array_equal(kernel, arrays["blocks.1.attn.qkv.weight"].T)
        np.testing.assert_array_equal(params["pos_embed"], arrays["pos_embed"])
        np.testing.assert_array_equal(params["cls_token"], arrays["cls_token"])
        assert params["head"]["kernel"].shape == (WIDTH, 1000)
    # Fine-tuning averages the patches, then normalises by a new norm.
    assert "norm" not in tuned
    np.testing.assert_array_equal(tuned["fc_norm"]["scale"], 1)
    assert "params/norm/bias and params/norm/scale dropped" in said
    np.testing.assert_array_equal(probed["norm"]["scale"], arrays["norm.weight"])


def test_the_whole_official_mae_starts_a_classifier_too(tmp_path, load_config):
    arrays, theirs = mae(True), tmp_path / "mae.npz"
    np.savez(theirs, **arrays)
    ours = tmp_path / "mae.safetensors"
    arguments = ("--model", "mae_vit_b16", "--source", "mae", "--fields")
    assert convert(theirs, ours, *arguments, f"{SIZES},{DECODER_SIZES}") == 0
    params = start(load_config, "mae_finetune", ours, "imagenet2012")
    kernel = params["blocks_0"]["mlp"]["fc1"]["kernel"]
    np.testing.assert_array_equal(kernel, arrays["blocks.0.mlp.fc1.weight"].T)
    np.testing.assert_allclose(params["pos_embed"], arrays["pos_embed"], atol=1e-6)


def dino(registers: int, positions: int) -> dict[str, np.ndarray]:
    shapes = encoder(14, positions)
    for i in range(DEPTH):
        shapes |= {f"blocks.{i}.ls1.gamma": (WIDTH,), f"blocks.{i}.ls2.gamma": (WIDTH,)}
    shapes |= {"reg_token": (1, registers, WIDTH)} if registers else {}
    return draw(shapes)


@pytest.mark.parametrize("registers", [0, 4])
def test_dinov2_of_timm_starts_a_classifier(registers, tmp_path, load_config, capsys):
    """A folder as timm publishes it: 518 pixels, no classifier, with and without registers."""
    arrays = dino(registers, 37 * 37 + (0 if registers else 1))
    save_file(arrays, tmp_path / "model.safetensors")
    sizes = dict(embed_dim=WIDTH, depth=DEPTH, num_heads=HEADS)
    config = {
        "architecture": f"vit_small_patch14_{'reg4_' if registers else ''}dinov2",
        "num_classes": 0,
        "global_pool": "token",
        "model_args": sizes,
        "pretrained_cfg": {
            "input_size": [3, 518, 518],
            "fixed_input_size": True,
            "mean": [0.485, 0.456, 0.406],
            "std": [0.229, 0.224, 0.225],
            "num_classes": 0,
        },
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    overrides = {"image_size": 224, "model.patch_size": 14, "model.layer_scale": 1e-5}
    overrides |= {"model.registers": registers, "model.pos_embed_prefix": not registers}
    params = start(load_config, "vit_ti16", tmp_path, **overrides)
    assert params["head"]["kernel"].shape == (WIDTH, 1000)
    prefix = 0 if registers else 1
    expected = resize_positions(arrays["pos_embed"], (37, 37), (16, 16), prefix)
    np.testing.assert_array_equal(params["pos_embed"], expected)
    said = capsys.readouterr().out
    assert "the weights have no classifier" in said
    assert "positions resized from 37x37 to 16x16 patches" in said
    assert "params/head/bias and params/head/kernel newly initialised" in said


def test_a_backbone_starts_a_classifier_without_its_tokens(tmp_path, load_config, capsys):
    """Mean pooling needs neither class token nor registers; their positions are dropped."""
    arrays = dino(4, 1 + 4 + 25)
    path, theirs = tmp_path / "ours.safetensors", tmp_path / "theirs.npz"
    np.savez(theirs, **arrays)
    fields = f"{SIZES},layer_scale=1.0,registers=4"
    arguments = ("--model", "vit_s14", "--source", "timm", "--fields", fields)
    assert convert(theirs, path, *arguments, "--image-size", "70") == 0
    overrides = {"image_size": 70, "model.patch_size": 14, "model.layer_scale": 1.0}
    params = start(load_config, "vit_ti16", path, **overrides, **{"model.pool": "mean"})
    assert not params.keys() & {"cls_token", "reg_token"}
    np.testing.assert_array_equal(params["pos_embed"], arrays["pos_embed"][:, 5:])
    assert "params/cls_token and params/reg_token dropped" in capsys.readouterr().out
    params = start(load_config, "vit_ti16", path, **overrides)
    assert "reg_token" not in params
    expected = np.delete(arrays["pos_embed"], [1, 2, 3, 4], axis=1)
    np.testing.assert_array_equal(params["pos_embed"], expected)


@pytest.mark.parametrize("registers", [0, 4])
def test_the_official_dinov2(registers, tmp_path, capsys):
    """Positions of the class token are added to it where the registers have none."""
    arrays = dino(registers, 1 + 25) | {"mask_token": np.zeros((1, WIDTH), np.float32)}
    if registers:
        arrays["register_tokens"] = arrays.pop("reg_token")
    theirs, ours, back = (tmp_path / f"{name}.npz" for name in ("a", "b", "c"))
    ours = ours.with_suffix(".safetensors")
    np.savez(theirs, **arrays)
    fields = f"{SIZES},layer_scale=1.0"
    fields += ",registers=4,pos_embed_prefix=False" if registers else ""
    arguments = ("--model", "vit_s14", "--source", "dinov2", "--fields", fields)
    assert convert(theirs, ours, *arguments, "--image-size", "42x84") == 0
    assert "positions resized from 5x5 to 3x6 patches" in capsys.readouterr().out
    params = saved.read(ours).variables["params"]
    # DINOv2 with registers resamples with antialiasing, without them with an offset of 0.1.
    method = "bicubic_antialias" if registers else "bicubic_offset"
    grid = resize_positions(arrays["pos_embed"], (5, 5), (3, 6), 1, method)
    token = arrays["cls_token"] + (grid[:, :1] if registers else 0)
    np.testing.assert_array_equal(params["cls_token"], token)
    np.testing.assert_array_equal(params["pos_embed"], grid[:, 1:] if registers else grid)
    assert convert(ours, back, "--to", "dinov2", "--image-size", "42x84") == 0
    with np.load(back) as file:
        assert {*file.files} == arrays.keys() - {"mask_token"}
        assert file["pos_embed"].shape == (1, 19, WIDTH)


def test_another_net_in_a_run_is_named(tmp_path, load_config, capsys):
    """Activation and heads leave no trace in the arrays; a note names what differs."""
    path = tmp_path / "weights.safetensors"
    arrays = mae(False)
    theirs = tmp_path / "theirs.safetensors"
    save_file(arrays, theirs)
    fields = f"width={WIDTH},depth={DEPTH},num_heads=4,act=gelu_tanh"
    assert convert(theirs, path, "--model", "vit_b16", "--source", "mae", "--fields", fields) == 0
    capsys.readouterr()
    start(load_config, "mae_probe", path, "imagenet2012")
    said = capsys.readouterr().out
    assert f"{path}: model.num_heads is 2 in the config, the weights were trained with 4" in said
    assert "model.act is 'gelu' in the config, the weights were trained with 'gelu_tanh'" in said
    assert "model.pool" not in said  # the weights had no classifier


def test_half_of_an_encoder_is_a_mistake(tmp_path, capsys):
    arrays = mae(False)
    del arrays["norm.bias"]
    save_file(arrays, tmp_path / "a.safetensors")
    arguments = ("--model", "vit_b16", "--source", "mae", "--fields", SIZES)
    assert convert(tmp_path / "a.safetensors", tmp_path / "b.safetensors", *arguments) == 2
    assert "missing norm.bias" in capsys.readouterr().err
