"""Mapping tables for Swin, versions 1 and 2, of torchvision, timm and the official code.

torchvision numbers stages and patch merging in one list. timm merges at the start of a stage, the
official code at the end of the previous stage. In version 2, torchvision has one bias for queries,
keys and values, with zeros for the keys; the other sources omit the bias of the keys.
"""

import numpy as np

from cv_jax.interop.tables import Family, Rule, conv, linear, norm, one
from cv_jax.interop.transforms import LINEAR, Transform
from cv_jax.models.windows import log_spaced_coordinates, relative_index

_BIAS_WITHOUT_KEYS = Transform(
    lambda x: (x[: len(x) // 3], x[2 * len(x) // 3 :]),
    lambda q, v: (np.concatenate([q, np.zeros_like(q), v]),),
)


def _blocks(theirs: str, ours: str, fc1: str, fc2: str) -> list[Rule]:
    attn = f"params/{ours}/attn"
    return [
        *norm(f"{theirs}.norm1", f"{ours}/norm1"),
        *linear(f"{theirs}.attn.qkv", f"{ours}/attn/qkv"),
        *linear(f"{theirs}.attn.proj", f"{ours}/attn/proj"),
        one(f"{theirs}.attn.relative_position_bias_table", f"{attn}/relative_position_bias_table"),
        *norm(f"{theirs}.norm2", f"{ours}/norm2"),
        *linear(f"{theirs}.mlp.{fc1}", f"{ours}/mlp/fc1"),
        *linear(f"{theirs}.mlp.{fc2}", f"{ours}/mlp/fc2"),
        # Version 2.
        one(f"{theirs}.attn.logit_scale", f"{attn}/logit_scale"),
        *linear(f"{theirs}.attn.cpb_mlp.0", f"{ours}/attn/cpb_mlp_0"),
        one(f"{theirs}.attn.cpb_mlp.2.weight", f"{attn}/cpb_mlp_2/kernel", LINEAR),
    ]


def _separate_biases(theirs: str, ours: str) -> list[Rule]:
    return [one(f"{theirs}.attn.{x}", f"params/{ours}/attn/{x}") for x in ("q_bias", "v_bias")]


def _merging(theirs: str, ours: str) -> list[Rule]:
    reduction = one(f"{theirs}.reduction.weight", f"params/{ours}/reduction/kernel", LINEAR)
    return [*norm(f"{theirs}.norm", f"{ours}/norm"), reduction]


_TORCHVISION = [
    *conv("features.0.0", "patch_embed", bias=True),
    *norm("features.0.2", "patch_norm"),
    *norm("norm", "norm"),
    *linear("head", "head"),
]
_SHARED = [
    *conv("patch_embed.proj", "patch_embed", bias=True),
    *norm("patch_embed.norm", "patch_norm"),
    *norm("norm", "norm"),
]
_TIMM = [*_SHARED, *linear("head.fc", "head")]
_OFFICIAL = [*_SHARED, *linear("head", "head")]
for _stage in range(4):
    _ours = f"layers_{_stage}/blocks_{{}}"
    _theirs = f"features.{2 * _stage + 1}.{{}}"
    _TORCHVISION += _blocks(_theirs, _ours, "0", "3")
    _TORCHVISION += [
        Rule(
            (f"{_theirs}.attn.qkv.bias",),
            (f"params/{_ours}/attn/q_bias", f"params/{_ours}/attn/v_bias"),
            _BIAS_WITHOUT_KEYS,
        )
    ]
    _TORCHVISION += _merging(f"features.{2 * _stage}", f"layers_{_stage}/downsample")
    for _table, _before in ((_TIMM, _stage), (_OFFICIAL, _stage - 1)):
        _theirs = f"layers.{_stage}.blocks.{{}}"
        _table += _blocks(_theirs, _ours, "fc1", "fc2")
        _table += _separate_biases(_theirs, _ours)
        _table += _merging(f"layers.{_before}.downsample", f"layers_{_stage}/downsample")

_CONSTANTS = r".*\.(relative_position_index|relative_coords_table|attn_mask)"


def _torchvision_constants(model) -> dict[str, np.ndarray]:
    """Relative indices and coordinates, which torchvision's state dicts contain."""
    window = (model.window_size, model.window_size)
    constants = {}
    for stage, depth in enumerate(model.depths):
        for i in range(depth):
            attn = f"features.{2 * stage + 1}.{i}.attn"
            index = relative_index(window).reshape(-1).astype(np.int64)
            constants[f"{attn}.relative_position_index"] = index
            if model.version == 2:
                sides = (1, *(2 * side - 1 for side in window), 2)
                table = log_spaced_coordinates(window).reshape(sides)
                constants[f"{attn}.relative_coords_table"] = table
    return constants


_NAMES = {"t": "tiny", "s": "small", "b": "base", "l": "large"}
_VERSION_1 = {
    **{f"swin_{x}_patch4_window7_224": (f"swin_{s}", {}) for s, x in _NAMES.items()},
    **{
        f"swin_{_NAMES[s]}_patch4_window12_384": (f"swin_{s}", dict(window_size=12))
        for s in ("b", "l")
    },
}
_SMALL_NAMES = {s: x for s, x in _NAMES.items() if s != "l"}
_TIMM_VERSION_2 = {
    f"swinv2_{x}_window{window}_256": (f"swinv2_{s}", fields)
    for s, x in _SMALL_NAMES.items()
    for window, fields in ((8, {}), (16, dict(window_size=16)))
}
_LARGE = dict(width=192, num_heads=(6, 12, 24, 48))
# Windows of pre-training, and of fine-tuning at another image size.
_TIMM_VERSION_2 |= {
    f"swinv2_{x}_window{name}": ("swinv2_b", {**fields, **size})
    for x, size in (("base", {}), ("large", _LARGE))
    for name, fields in (
        ("12_192", dict(window_size=12)),
        ("12to16_192to256", dict(window_size=16, pretrained_windows=(12, 12, 12, 6))),
        ("12to24_192to384", dict(window_size=24, pretrained_windows=(12, 12, 12, 6))),
    )
}
_OFFICIAL_VERSION_2 = {
    name.replace("_window", "_patch4_window"): entry for name, entry in _TIMM_VERSION_2.items()
}
_PAD = dict(window_rule="pad")

FAMILIES = (
    Family(
        "torchvision",
        {
            **{f"swin_{s}": (f"swin_{s}", _PAD) for s in _SMALL_NAMES},
            **{f"swin_v2_{s}": (f"swinv2_{s}", _PAD) for s in _SMALL_NAMES},
        },
        _TORCHVISION,
        ignored=(_CONSTANTS,),
        fixed=_torchvision_constants,
    ),
    Family("timm", {**_VERSION_1, **_TIMM_VERSION_2}, _TIMM, ignored=(_CONSTANTS,)),
    Family("swin", {**_VERSION_1, **_OFFICIAL_VERSION_2}, _OFFICIAL, ignored=(_CONSTANTS,)),
)
