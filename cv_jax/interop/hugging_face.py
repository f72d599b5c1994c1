"""Mapping tables for ViT, DeiT, MAE, DINOv2, Swin and ResNet of Hugging Face's transformers.

The library names the arrays of one network in several ways: by release, and with or without a
classifier. `plain_names` gives all of them the names of transformers 5 without the prefix of the
base model. Queries, keys and values are separate layers. `hugging_face_config.py` reads the
`config.json` beside the weights. The tables load only.
"""

import re
from collections.abc import Mapping

import numpy as np

from cv_jax import models
from cv_jax.interop.tables import Family, Rule, batch_norm, conv, linear, norm, one
from cv_jax.interop.transforms import LINEAR, Transform
from cv_jax.interop.vision_transformer import mae_positions

SOURCE = "transformers"

_RENAMED = [
    (re.compile(pattern), name)
    for pattern, name in (
        (r"^(vit|deit|swin|swinv2|resnet|dinov2|dinov2_with_registers)\.", ""),
        (r"^encoder\.layer\.", "layers."),
        (r"^decoder\.decoder_encoder\.layer\.", "decoder.decoder_layers."),
        (r"\.attention\.(attention|self)\.", ".attention."),
        (r"\.attention\.(query|key|value)\.", r".attention.\1_proj."),
        (r"\.(query|key|value)_proj\.", lambda match: f".{match[1][0]}_proj."),
        (r"\.attention\.output\.dense\.", ".attention.o_proj."),
        (
            r"\.relative_position_bias\.relative_position_bias_table$",
            ".relative_position_bias_table",
        ),
        (r"\.intermediate\.dense\.", ".mlp.fc1."),
        (r"(\.\d+)\.output\.dense\.", r"\1.mlp.fc2."),
        (r"^(layers\.\d+)\.norm1\.", r"\1.layernorm_before."),
        (r"^(layers\.\d+)\.norm2\.", r"\1.layernorm_after."),
    )
]

_CLASS, _POSITIONS = "embeddings.cls_token", "embeddings.position_embeddings"
_FUSED_MATRICES = Transform(
    lambda *parts: (np.concatenate(parts).T,), lambda x: tuple(np.split(x.T, 3))
)
_FUSED_BIASES = Transform(lambda *parts: (np.concatenate(parts),), lambda x: tuple(np.split(x, 3)))


def plain_names(state_dict: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the arrays under the names of the tables."""
    return {_plain(key): x for key, x in state_dict.items()}


def _plain(key: str) -> str:
    for pattern, name in _RENAMED:
        key = pattern.sub(name, key)
    return key


def _registers(state_dict: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """As `plain_names`; a distillation token without its own classifier is a register.

    DINOv2's registers have no positions. There the position of the class token is added to the
    token, as in timm.
    """
    plain = plain_names(state_dict)
    if "embeddings.register_tokens" in plain and _POSITIONS in plain and _CLASS in plain:
        positions = np.asarray(plain[_POSITIONS])
        plain[_CLASS] = plain[_CLASS] + positions[:, :1]
        plain[_POSITIONS] = positions[:, 1:]
    return {key.replace("distillation_token", "register_tokens"): x for key, x in plain.items()}


def _block(theirs: str, ours: str) -> list[Rule]:
    attention = f"{theirs}.attention"
    parts = [f"{attention}.{x}_proj" for x in "qkv"]
    return [
        *norm(f"{theirs}.layernorm_before", f"{ours}/norm1"),
        Rule(
            tuple(f"{part}.weight" for part in parts),
            (f"params/{ours}/attn/qkv/kernel",),
            _FUSED_MATRICES,
        ),
        Rule(
            tuple(f"{part}.bias" for part in parts),
            (f"params/{ours}/attn/qkv/bias",),
            _FUSED_BIASES,
        ),
        *linear(f"{attention}.o_proj", f"{ours}/attn/proj"),
        *norm(f"{theirs}.layernorm_after", f"{ours}/norm2"),
        *linear(f"{theirs}.mlp.fc1", f"{ours}/mlp/fc1"),
        *linear(f"{theirs}.mlp.fc2", f"{ours}/mlp/fc2"),
    ]


_EMBEDDING = conv("embeddings.patch_embeddings.projection", "patch_embed", bias=True)
_ENCODER = [
    one(_CLASS, "params/cls_token"),
    *_EMBEDDING,
    *_block("layers.{}", "blocks_{}"),
    *(
        one(f"layers.{{}}.layer_scale{i}.lambda1", f"params/blocks_{{}}/ls{i}/gamma")
        for i in (1, 2)
    ),
    *norm("layernorm", "norm"),
]
_VIT = [
    *_ENCODER,
    one(_POSITIONS, "params/pos_embed"),
    one("embeddings.register_tokens", "params/reg_token"),
    *linear("classifier", "head"),
]
_DISTILLED = [
    *_ENCODER,
    one(_POSITIONS, "params/pos_embed"),
    one("embeddings.distillation_token", "params/dist_token"),
    *linear("cls_classifier", "head"),
    *linear("distillation_classifier", "head_dist"),
]
_MAE = [
    *_ENCODER,
    *linear("decoder.decoder_embed", "decoder_embed"),
    one("decoder.mask_token", "params/mask_token"),
    *_block("decoder.decoder_layers.{}", "decoder_blocks_{}"),
    *norm("decoder.decoder_norm", "decoder_norm"),
    *linear("decoder.decoder_pred", "decoder_pred"),
]
_MAE_POSITIONS = (_POSITIONS, "decoder.decoder_pos_embed")

_SWIN = [
    *_EMBEDDING,
    *norm("embeddings.norm", "patch_norm"),
    *norm("layernorm", "norm"),
    *linear("classifier", "head"),
]
for _stage in range(4):
    _theirs, _ours = f"encoder.layers.{_stage}.blocks.{{}}", f"layers_{_stage}/blocks_{{}}"
    _attention, _attn = f"{_theirs}.attention", f"params/{_ours}/attn"
    _mlp = f"{_attention}.continuous_position_bias_mlp"
    _downsample = f"encoder.layers.{_stage - 1}.downsample"
    _reduction = f"params/layers_{_stage}/downsample/reduction/kernel"
    _SWIN += [
        *_block(_theirs, _ours),
        one(f"{_attention}.relative_position_bias_table", f"{_attn}/relative_position_bias_table"),
        # Version 2.
        one(f"{_attention}.q_proj.bias", f"{_attn}/q_bias"),
        one(f"{_attention}.v_proj.bias", f"{_attn}/v_bias"),
        one(f"{_attention}.logit_scale", f"{_attn}/logit_scale"),
        *linear(f"{_mlp}.0", f"{_ours}/attn/cpb_mlp_0"),
        one(f"{_mlp}.2.weight", f"{_attn}/cpb_mlp_2/kernel", LINEAR),
        *norm(f"{_downsample}.norm", f"layers_{_stage}/downsample/norm"),
        one(f"{_downsample}.reduction.weight", _reduction, LINEAR),
    ]

_RESNET = [
    *conv("embedder.embedder.convolution", "conv1", bias=False),
    *batch_norm("embedder.embedder.normalization", "bn1"),
    *linear("classifier.1", "head"),
]
for _stage in range(4):
    _theirs, _ours = f"encoder.stages.{_stage}.layers.{{}}", f"layer{_stage + 1}_{{}}"
    for _layer in range(3):
        _place = f"{_theirs}.layer.{_layer}"
        _RESNET += conv(f"{_place}.convolution", f"{_ours}/conv{_layer + 1}", bias=False)
        _RESNET += batch_norm(f"{_place}.normalization", f"{_ours}/bn{_layer + 1}")
    _RESNET += conv(f"{_theirs}.shortcut.convolution", f"{_ours}/downsample_0", bias=False)
    _RESNET += batch_norm(f"{_theirs}.shortcut.normalization", f"{_ours}/downsample_1")

# Layers of the base models that no classifier reads.
_UNREAD = (r"pooler\.dense\.(weight|bias)", r"embeddings\.mask_token")
_SWIN_CONSTANTS = (r".*\.(relative_position_index|relative_coords_table)",)


def _named(pattern: str) -> dict[str, tuple[str, dict]]:
    """Return all models whose names match; `config.json` names no model of its own."""
    return {name: (name, {}) for name in models.MODELS if re.fullmatch(pattern, name)}


FAMILIES = (
    Family(SOURCE, _named(r"vit_\w+"), _VIT, ignored=_UNREAD, renamed=_registers),
    Family(
        SOURCE,
        _named(r"deit_\w+_distilled"),
        _DISTILLED,
        ignored=_UNREAD,
        renamed=plain_names,
    ),
    Family(
        SOURCE,
        _named(r"mae_vit_\w+"),
        _MAE,
        ignored=tuple(map(re.escape, _MAE_POSITIONS)),
        fixed=lambda model: dict(zip(_MAE_POSITIONS, mae_positions(model), strict=True)),
        renamed=plain_names,
    ),
    Family(SOURCE, _named(r"swin(v2)?_\w+"), _SWIN, ignored=_SWIN_CONSTANTS, renamed=plain_names),
    Family(SOURCE, _named(r"resnet\d+(_v1)?"), _RESNET, renamed=plain_names),
)
