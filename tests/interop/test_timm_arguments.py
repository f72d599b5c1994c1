"""Arguments of timm's networks as fields of the models here.

`timm_architectures.json` has the arguments of every architecture in timm's registry; see
make_timm_architectures.py.
"""

import json
import pathlib

import pytest

from cv_jax import models
from cv_jax.errors import InputError
from cv_jax.interop import timm_arguments, weights

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
ARCHITECTURES = json.loads((GOLDEN / "timm_architectures.json").read_text())
# Defaults of timm's classes that a name of the registry here may replace.
DEFAULTS = {
    "VisionTransformer": dict(
        patch_size=16, embed_dim=768, depth=12, num_heads=12, mlp_ratio=4.0, global_pool="token"
    ),
    "SwinTransformer": dict(
        embed_dim=96, depths=[2, 2, 6, 2], num_heads=[3, 6, 12, 24], window_size=7
    ),
    "ResNet": dict(cardinality=1, base_width=64),
}
DEFAULTS["VisionTransformerDistilled"] = DEFAULTS["VisionTransformer"]
DEFAULTS["SwinTransformerV2"] = DEFAULTS["SwinTransformer"]
# Arguments that decide between names of the registry here; `None`: any value.
BY_NAME = {
    "ResNet": {"block": ("BasicBlock", "Bottleneck")},
    "ResNetV2": {
        "basic": (True,),
        "bottle_ratio": (1.0,),
        "channels": ([64, 128, 256, 512],),
        "conv_layer": ("create_conv2d",),
        "norm_layer": ("BatchNormAct2d",),
    },
    "VGG": {"cfg": None, "norm_layer": ("BatchNorm2d",)},
}


def translated(name: str) -> tuple[str, dict]:
    """Return the registry's name of an architecture, and all fields that its arguments give."""
    facts = ARCHITECTURES[name]
    network = facts["class"]
    arguments = {**DEFAULTS.get(network, {}), **facts}
    del arguments["class"]
    for argument, allowed in BY_NAME.get(network, {}).items():
        value = arguments.pop(argument, None)
        if value is not None and allowed is not None and value not in allowed:
            raise InputError(f"{argument}={value}")
    model, known = weights.reference("timm", name)
    if network.startswith("VisionTransformer"):
        normalised = arguments["global_pool"] in ("avg", "avgmax", "max")
        arguments.setdefault("fc_norm", normalised)  # timm's rule
    by_name = {"block": known["block"]} if "block" in known else {}
    fields, notes = timm_arguments.fields(model, by_name, arguments, (), None)
    assert not notes
    return model, {**models.fields(model), **fields}


def known_here(name: str) -> bool:
    try:
        weights.reference("timm", name)
    except InputError:
        return False
    return True


@pytest.mark.parametrize("name", [*filter(known_here, ARCHITECTURES)])
def test_a_name_of_timm_means_the_network_of_timm(name):
    model, expected = translated(name)
    _, fields = weights.reference("timm", name)
    got = {**models.fields(model), **fields}
    for both in (expected, got):
        both["layer_scale"] = bool(both.get("layer_scale"))  # the value is for initialisation
    assert got == expected


REFUSED = {
    "vit_ti16": dict(
        qkv_bias=False,
        proj_bias=False,
        scale_attn_norm=True,
        scale_mlp_norm=True,
        pos_embed="none",
        pre_norm=True,
        final_norm=False,
        norm_layer="rmsnorm",
        act_layer="mish",
        global_pool="prr",
        patch_size=[16, 8],
        class_token=False,
        attn_layer="diff",
        dynamic_img_pad=True,
        embed_dim="wide",
        features_only=True,
    ),
    "deit_ti16_distilled": dict(global_pool="avg", reg_tokens=1),
    "resnet50": dict(
        output_stride=16,
        stem_type="deep",
        avg_down=True,
        replace_stem_pool=True,
        block_reduce_first=2,
        down_kernel_size=3,
        act_layer="silu",
        norm_layer="groupnorm",
        aa_layer="blur",
        block_args={"attn_layer": "se"},
        global_pool="",
        block="BasicBlock",
    ),
    "resnet50_preact": dict(stem_type="deep", width_factor=2, preact=False, channels=[8, 8, 8, 8]),
    "swin_t": dict(
        always_partition=True,
        qkv_bias=False,
        window_size=[7, 4],
        head_dim=16,
        norm_layer="layernorm",
        patch_size=[4, 2],
    ),
    "swinv2_t": dict(window_size=[8, 8, 8, 4], act_layer="relu"),
    "vgg11": dict(global_pool="catavgmax", mlp_ratio=2.0, norm_layer="batchnorm"),
}


@pytest.mark.parametrize(
    ("model", "name"), [(model, name) for model, values in REFUSED.items() for name in values]
)
def test_what_the_models_here_do_not_have_is_refused_by_name(model, name):
    value = REFUSED[model][name]
    with pytest.raises(InputError, match=f"config.json: {name}=") as error:
        timm_arguments.fields(model, {}, {name: value}, (), 1000)
    assert "\n" not in str(error.value)


def test_attention_pooling_of_some_tokens_is_refused():
    """timm leaves out the tokens before the patches, the model here reads them."""
    for arguments in (dict(reg_tokens=2, class_token=False), dict(pool_include_prefix=False)):
        with pytest.raises(InputError, match="pool_include_prefix=False has no counterpart"):
            timm_arguments.fields("vit_ti16", {}, {"global_pool": "map", **arguments}, (), 5)
    arguments = dict(global_pool="avg", pool_include_prefix=True)
    with pytest.raises(InputError, match="pool_include_prefix=True has no counterpart"):
        timm_arguments.fields("vit_ti16", {}, arguments, (), 5)
