"""timm's name and arguments of a network here: the inverse of `timm_arguments.py`.

`config.json` names an architecture of timm. Where fields differ from it, `model_args` holds the
arguments of timm's constructor with the same effect.
"""

import math
from collections.abc import Mapping
from typing import Any

from cv_jax import models
from cv_jax.interop.weights import family
from cv_jax.models.resnet import ResNet
from cv_jax.models.swin import Swin
from cv_jax.models.vit import ViT

Fields = dict[str, Any]

_POOLS = {"mean": "avg", "max": "max", "mean_max": "avgmax"}
_SHARED = {"pool": ("global_pool", {**_POOLS, "concat": "catavgmax"}.get)}


def _same(value):
    return value


def _named(**names: str):
    return {field: (argument, _same) for field, argument in names.items()}


# Field here → (argument of timm, function of the value); `None` for a value that timm lacks.
_VIT = {
    **_named(patch_size="patch_size", width="embed_dim", depth="depth", num_heads="num_heads"),
    **_named(mlp_ratio="mlp_ratio", qk_norm="qk_norm", act="act_layer", layer_scale="init_values"),
    **_named(registers="reg_tokens", class_token="class_token", fc_norm="fc_norm"),
    "pos_embed_prefix": ("no_embed_class", lambda value: not value),
    "pool": ("global_pool", {**_POOLS, "cls": "token", "map": "map"}.get),
}
_SWIN = {
    **_named(patch_size="patch_size", width="embed_dim", depths="depths", num_heads="num_heads"),
    **_named(window_size="window_size", mlp_ratio="mlp_ratio"),
    **_named(pretrained_windows="pretrained_window_sizes"),
    **_SHARED,
}
_RESNET = {
    **_named(stage_sizes="layers", widths="channels", groups="cardinality"),
    **_named(width_per_group="base_width"),
    **_SHARED,
}
_PREACT = {**_named(stage_sizes="layers", stem_width="stem_chs"), **_SHARED}

# Fields that change neither the arrays nor the logits in evaluation.
_WITHOUT_EFFECT = (
    *("num_classes", "image_size", "dtype", "param_dtype", "axis_name", "zero_init_residual"),
    *("dropout_rate", "drop_path_rate", "remat_policy"),
    *("attention_implementation", "attention_weights"),
)


def architecture(
    model_name: str, fields: Mapping[str, Any], image_size: tuple[int, int]
) -> tuple[str, Fields]:
    """Return timm's name of a network, and the arguments that differ from this architecture's.

    Args:
      model_name: the registry's name; timm has a network of this kind.
      fields: fields of the model.
      image_size: (height, width) of its input.

    Returns:
      `(name, arguments)`, or `("", the fields that timm cannot express)`.
    """
    wanted = {**models.fields(model_name), **fields}
    module = models.MODELS[model_name].module
    if module is Swin and _windows_divide(wanted, image_size):
        wanted["window_rule"] = "shrink"  # nothing is padded
    table = {ViT: _VIT, Swin: _SWIN, ResNet: _RESNET}.get(module, {})
    table = _PREACT if wanted.get("preact") else table
    found = []
    for name, (model, needed) in family(model_name, "timm").references.items():
        if models.MODELS[model].module is module:
            differing = _differing(wanted, {**models.fields(model), **needed})
            arguments = {
                table[field][0]: table[field][1](value)
                for field, value in differing.items()
                if field in table
            }
            unknown = {
                field: value
                for field, value in differing.items()
                if field not in table or arguments[table[field][0]] is None
            }
            distance = len(unknown), len(differing), model != model_name
            found.append((distance, name, arguments, unknown))
    _, name, arguments, unknown = min(found, key=lambda item: item[0])
    if unknown:
        return "", unknown
    if module is ViT:
        arguments = _explicit_pooling(arguments, wanted)
    return name, arguments


def _differing(wanted: Mapping[str, Any], known: Mapping[str, Any]) -> Fields:
    differing = {k: v for k, v in wanted.items() if v != known[k] and k not in _WITHOUT_EFFECT}
    if bool(wanted.get("layer_scale")) == bool(known.get("layer_scale")):
        differing.pop("layer_scale", None)  # the value is for initialisation
    return differing


def _explicit_pooling(arguments: Fields, wanted: Mapping[str, Any]) -> Fields:
    """Return arguments of a ViT in which no default of timm depends on another argument."""
    if not arguments.keys() & {"global_pool", "class_token", "fc_norm", "reg_tokens"}:
        return arguments
    pool, token = wanted["pool"], wanted["pool"] == "cls" or wanted["class_token"]
    arguments = {
        **arguments,
        "global_pool": _VIT["pool"][1](pool),
        "class_token": token,
        "fc_norm": wanted["fc_norm"],
    }
    if pool == "map" and (token or wanted["registers"]):
        arguments["pool_include_prefix"] = True
    return arguments


def _windows_divide(fields: Mapping[str, Any], image_size: tuple[int, int]) -> bool:
    """Whether the windows of a Swin divide the maps of all its stages."""
    window = fields["window_size"]
    for stage in range(len(fields["depths"])):
        for side in image_size:
            if math.ceil(side / (fields["patch_size"] * 2**stage)) % window:
                return False
    return True
