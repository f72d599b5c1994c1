"""Fields of the models here for the arguments of timm's networks.

A network of timm is a class with arguments. The name of an architecture gives some of them, and the
`config.json` of a folder may give others: `model_args` and `global_pool`. Every argument becomes a
field here, has the one value that the models here have, or is refused by name.
"""

import re
import typing
from collections.abc import Callable, Collection, Mapping
from typing import Any

from cv_jax import models
from cv_jax.config.values import check, tuples
from cv_jax.errors import InputError
from cv_jax.models.resnet import ResNet
from cv_jax.models.swin import Swin
from cv_jax.models.vgg import VGG
from cv_jax.models.vit import ViT

Fields = dict[str, Any]

# Compared with the arrays, or without effect on the network's function.
_FREE = ("img_size", "in_chans", "num_classes", "dynamic_img_size", "strict_img_size")
_FREE += ("weight_init", "fix_init", "zero_init_last")
_DROPPED = re.compile(r"(\w+_)?drop(_\w+)?_rate")  # concern training only

_POOLS = {"avg": "mean", "max": "max", "avgmax": "mean_max"}
_ACTIVATIONS = {
    **{name: name for name in ("gelu", "gelu_tanh", "quick_gelu", "relu", "tanh", "sigmoid")},
    **dict.fromkeys(("silu", "swish"), "silu"),
}


class _Unlike(Exception):
    """A value that the models here do not have; the message says which they have."""


def _one_of(allowed) -> str:
    return f"it has {' or '.join(map(repr, allowed))}"


def _field(name: str, convert: Callable[[Any], Any] = lambda value: value):
    return lambda value: {name: convert(value)}


def _only(*allowed):
    def accept(value):
        if value not in allowed:
            raise _Unlike(_one_of(allowed))
        return {}

    return accept


def _choice(name: str, allowed: Mapping[Any, Any]):
    def choose(value):
        if value not in allowed:
            raise _Unlike(_one_of(allowed))
        return {name: allowed[value]}

    return choose


def _side(value):
    """The side of a square, given once, as a pair, or once for each stage."""
    sides = set(_flat(value))
    if len(sides) != 1:
        raise _Unlike("all of its sides must be equal")
    return sides.pop()


def _flat(value):
    return (
        [x for item in value for x in _flat(item)] if isinstance(value, list | tuple) else [value]
    )


def _windows(value):
    return tuple(value) if any(value) else (0,)


_VIT = {
    "patch_size": _field("patch_size", _side),
    "embed_dim": _field("width"),
    "depth": _field("depth"),
    "num_heads": _field("num_heads"),
    "mlp_ratio": _field("mlp_ratio"),
    "qk_norm": _field("qk_norm"),
    "init_values": _field("layer_scale"),
    "reg_tokens": _field("registers"),
    "no_embed_class": _field("pos_embed_prefix", lambda value: not value),
    "act_layer": _choice("act", _ACTIVATIONS),
    "qkv_bias": _only(True),
    "proj_bias": _only(True),
    "scale_attn_norm": _only(False),
    "scale_mlp_norm": _only(False),
    "pre_norm": _only(False),
    "final_norm": _only(True),
    "pos_embed": _only("learn"),
    "norm_layer": _only("layernorm"),
    "dynamic_img_pad": _only(False),
}
_VIT_POOLING = ("global_pool", "class_token", "fc_norm", "pool_include_prefix")
_SWIN = {
    "patch_size": _field("patch_size", _side),
    "embed_dim": _field("width"),
    "depths": _field("depths"),
    "num_heads": _field("num_heads"),
    "window_size": _field("window_size", _side),
    "pretrained_window_sizes": _field("pretrained_windows", _windows),
    "mlp_ratio": _field("mlp_ratio", _side),
    "global_pool": _choice("pool", {**_POOLS, "catavgmax": "concat"}),
    "always_partition": _only(False),
    "qkv_bias": _only(True),
    "act_layer": _only("gelu"),
}
_RESNET = {
    "layers": _field("stage_sizes"),
    "channels": _field("widths"),
    "cardinality": _field("groups"),
    "base_width": _field("width_per_group"),
    "global_pool": _choice("pool", {**_POOLS, "catavgmax": "concat"}),
    "output_stride": _only(32),
    "stem_type": _only(""),
    "stem_width": lambda value: {},  # of deep stems; others have 64 channels
    "replace_stem_pool": _only(False),
    "block_reduce_first": _only(1),
    "down_kernel_size": _only(1),
    "avg_down": _only(False),
    "act_layer": _only("relu"),
    "norm_layer": _only("batchnorm2d", "batchnorm"),
    "aa_layer": _only(""),
    "block_args": _only({}),
}
_PREACT = {
    "layers": _field("stage_sizes"),
    "stem_chs": _field("stem_width"),
    "global_pool": _choice("pool", {**_POOLS, "catavgmax": "concat"}),
    "output_stride": _only(32),
    "width_factor": _only(1),
    "stem_type": _only(""),
    "avg_down": _only(False),
    "preact": _only(True),
    "act_layer": _only("relu"),
}
_VGG = {
    "global_pool": _only("avg"),
    "output_stride": _only(32),
    "mlp_ratio": _only(1),
    "act_layer": _only("relu"),
}


def fields(
    model_name: str,
    known: Fields,
    arguments: Mapping[str, Any],
    keys: Collection[str],
    num_classes: int | None,
) -> tuple[Fields, list[str]]:
    """Return the fields that arguments of timm's constructor set, and notes.

    Args:
      model_name: the registry's name of the architecture.
      known: fields of the architecture.
      arguments: name → JSON value, in addition to the architecture's. `None` has no effect.
      keys: names of the weights. They decide whether a norm follows the pooling of a ViT, if no
        argument does.
      num_classes: classes of the weights, or `None`.

    Raises:
      InputError: an argument has no counterpart here, or a value has another type.
    """
    given = {name: value for name, value in arguments.items() if value is not None}
    notes = [
        f"{name}={value} of config.json concerns training and has no effect here"
        for name, value in given.items()
        if _DROPPED.fullmatch(name) and value
    ]
    given = {k: v for k, v in given.items() if k not in _FREE and not _DROPPED.fullmatch(k)}
    if given.get("global_pool") == "" and num_classes == 0:
        del given["global_pool"]
        notes.append("the weights pool nothing; the model here pools as its architecture does")
    module, table = _table(model_name, known)
    hints = typing.get_type_hints(module)
    found = dict(known)
    for name, value in given.items():
        if module is ViT and name in (
            "global_pool",
            "class_token",
            "fc_norm",
            "pool_include_prefix",
        ):
            continue
        if name not in table:
            raise InputError(_refusal(model_name, name, value))
        try:
            new = table[name](value)
        except _Unlike as error:
            raise InputError(_refusal(model_name, name, value, str(error))) from None
        except TypeError:
            raise InputError(_refusal(model_name, name, value)) from None
        where = f"config.json: {name}={value!r}"
        found.update({k: check(tuples(v), hints[k], where) for k, v in new.items()})
    if module is ViT:
        found.update(_vit_pooling(model_name, found, given, keys))
    defaults = models.fields(model_name)
    return {name: value for name, value in found.items() if value != defaults[name]}, notes


def notes_on_size(model_name: str, image_size: tuple[int, int] | None) -> list[str]:
    """Return a note if timm's network and the model here differ on images of this size."""
    if models.MODELS[model_name].module is not VGG or max(image_size or (0,)) < 256:
        return []
    return [
        "on images of 256 pixels or more timm's VGG slides its first linear layer over the maps; "
        "the model here averages them to 7x7, so its logits differ"
    ]


def _table(model_name: str, known: Fields):
    module = models.MODELS[model_name].module
    tables = {ViT: _VIT, Swin: _SWIN, ResNet: _RESNET, VGG: _VGG}
    preact = {**models.fields(model_name), **known}.get("preact")
    return module, _PREACT if preact else tables.get(module, {})


def _refusal(model_name: str, name: str, value: Any, hint: str = "") -> str:
    said = f"config.json: {name}={value!r} has no counterpart in {model_name}"
    return f"{said}; {hint}" if hint else said


def _vit_pooling(model_name: str, found: Fields, given: Fields, keys: Collection[str]) -> Fields:
    """Return pooling, class token and last norm of a ViT, which depend on each other."""
    now = {**models.fields(model_name), **found}
    pools = {**_POOLS, "token": "cls", "map": "map"}
    kind = given.get("global_pool")
    if kind is not None and kind not in pools:
        raise InputError(_refusal(model_name, "global_pool", kind, _one_of(pools)))
    pool = now["pool"] if kind is None else pools[kind]
    token = given.get("class_token", now["class_token"] or now["pool"] in ("cls", "cls_mean"))
    prefix = bool(token) + now["registers"] + now["distilled"]
    if pool == "cls" and not token:
        hint = "pooling by the class token needs it"
        raise InputError(_refusal(model_name, "class_token", False, hint))
    if now["distilled"] and (pool != "cls" or now["registers"]):
        name = "global_pool" if pool != "cls" else "reg_tokens"
        raise InputError(_refusal(model_name, name, given[name]))
    # Attention pooling here reads all tokens, the other kinds read the patches.
    include = bool(given.get("pool_include_prefix", pool == "map" and kind is None))
    if prefix and pool != "cls" and include != (pool == "map"):
        raise InputError(
            f"{_refusal(model_name, 'pool_include_prefix', include)} with {prefix} tokens before "
            f"the patches and global_pool={kind!r}"
        )
    fc_norm = given.get("fc_norm", "fc_norm.weight" in keys)
    return {"pool": pool, "class_token": bool(token) and pool != "cls", "fc_norm": bool(fc_norm)}
