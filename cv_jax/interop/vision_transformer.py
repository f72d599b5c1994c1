"""Mapping tables for ViT, DeiT and MAE of torchvision, timm and the official MAE code.

The models here use timm's names, as do the official codes of MAE and DINOv2. torchvision uses other
names.
`big_vision.py` covers Google's files.
"""

import numpy as np

from cv_jax.interop.tables import Family, Rule, conv, linear, norm, one
from cv_jax.interop.timm_names import VITS
from cv_jax.interop.transforms import LINEAR, Transform
from cv_jax.models import vit
from cv_jax.models.positions import sincos_2d


def _timm_block(theirs: str, ours: str) -> list[Rule]:
    return [
        *norm(f"{theirs}.norm1", f"{ours}/norm1"),
        *linear(f"{theirs}.attn.qkv", f"{ours}/attn/qkv"),
        *norm(f"{theirs}.attn.q_norm", f"{ours}/attn/q_norm"),
        *norm(f"{theirs}.attn.k_norm", f"{ours}/attn/k_norm"),
        *linear(f"{theirs}.attn.proj", f"{ours}/attn/proj"),
        one(f"{theirs}.ls1.gamma", f"params/{ours}/ls1/gamma"),
        *norm(f"{theirs}.norm2", f"{ours}/norm2"),
        *linear(f"{theirs}.mlp.fc1", f"{ours}/mlp/fc1"),
        *linear(f"{theirs}.mlp.fc2", f"{ours}/mlp/fc2"),
        one(f"{theirs}.ls2.gamma", f"params/{ours}/ls2/gamma"),
    ]


_TIMM_ENCODER = [
    one("cls_token", "params/cls_token"),
    *conv("patch_embed.proj", "patch_embed", bias=True),
    *_timm_block("blocks.{}", "blocks_{}"),
    *norm("norm", "norm"),
]
_QUERY = Transform(lambda x: (x[0],), lambda x: (x[None],))
_TIMM = [
    *_TIMM_ENCODER,
    one("pos_embed", "params/pos_embed"),
    one("dist_token", "params/dist_token"),
    one("reg_token", "params/reg_token"),
    *norm("fc_norm", "fc_norm"),
    one("attn_pool.latent", "params/pool/query", _QUERY),
    *linear("attn_pool.q", "pool/q"),
    *linear("attn_pool.kv", "pool/kv"),
    *linear("attn_pool.proj", "pool/proj"),
    *norm("attn_pool.norm", "pool/norm"),
    *linear("attn_pool.mlp.fc1", "pool/mlp/fc1"),
    *linear("attn_pool.mlp.fc2", "pool/mlp/fc2"),
    *linear("head", "head"),
    *linear("head_dist", "head_dist"),
]
_MAE = [
    *_TIMM_ENCODER,
    *linear("decoder_embed", "decoder_embed"),
    one("mask_token", "params/mask_token"),
    *_timm_block("decoder_blocks.{}", "decoder_blocks_{}"),
    *norm("decoder_norm", "decoder_norm"),
    *linear("decoder_pred", "decoder_pred"),
]


def mae_positions(model) -> tuple[np.ndarray, np.ndarray]:
    """Return the fixed positions of encoder and decoder, which state dicts contain."""
    (rows, columns), _ = model.check()
    return tuple(
        np.pad(sincos_2d(rows, columns, width), ((1, 0), (0, 0)))[None]
        for width in (model.width, model.decoder_width)
    )


_TORCHVISION = [
    one("class_token", "params/cls_token"),
    *conv("conv_proj", "patch_embed", bias=True),
    one("encoder.pos_embedding", "params/pos_embed"),
    *norm("encoder.ln", "norm"),
    *linear("heads.head", "head"),
]
for _theirs, _ours in [("encoder.layers.encoder_layer_{}", "blocks_{}")]:
    _TORCHVISION += [
        *norm(f"{_theirs}.ln_1", f"{_ours}/norm1"),
        one(f"{_theirs}.self_attention.in_proj_weight", f"params/{_ours}/attn/qkv/kernel", LINEAR),
        one(f"{_theirs}.self_attention.in_proj_bias", f"params/{_ours}/attn/qkv/bias"),
        *linear(f"{_theirs}.self_attention.out_proj", f"{_ours}/attn/proj"),
        *norm(f"{_theirs}.ln_2", f"{_ours}/norm2"),
        *linear(f"{_theirs}.mlp.0", f"{_ours}/mlp/fc1"),
        *linear(f"{_theirs}.mlp.3", f"{_ours}/mlp/fc2"),
    ]


# With registers, the official positions have one for the class token. It is added to the token.
_DINOV2 = [
    Rule(
        ("cls_token", "pos_embed", "register_tokens"),
        ("params/cls_token", "params/pos_embed", "params/reg_token"),
        Transform(
            lambda token, x, registers: (token + x[:, :1], x[:, 1:], registers),
            lambda token, x, registers: (token, np.pad(x, ((0, 0), (1, 0), (0, 0))), registers),
        ),
    ),
    *_TIMM,
]
_REGISTERS = dict(layer_scale=1.0, registers=4, pos_embed_prefix=False)

# The official fine-tuned encoders apply `fc_norm` to the average of the patches.
_FINE_TUNED = dict(pool="mean", class_token=True, fc_norm=True)
_MAE_SIZES = [("b", 16, "base"), ("l", 16, "large"), ("h", 14, "huge")]

FAMILIES = (
    Family(
        "torchvision",
        {
            f"vit_{s}_{p}": (f"vit_{s}{p}", {})
            for s, p in (("b", 16), ("b", 32), ("l", 16), ("l", 32), ("h", 14))
        },
        _TORCHVISION,
    ),
    Family("timm", VITS, _TIMM, models=tuple(vit.MODELS)),
    Family(
        "mae",
        {f"mae_vit_{name}_patch{p}": (f"mae_vit_{s}{p}", {}) for s, p, name in _MAE_SIZES},
        _MAE,
        ignored=("(decoder_)?pos_embed",),
        fixed=lambda model: dict(
            zip(("pos_embed", "decoder_pos_embed"), mae_positions(model), strict=True)
        ),
    ),
    Family(
        "mae",
        {f"vit_{name}_patch{p}": (f"vit_{s}{p}", _FINE_TUNED) for s, p, name in _MAE_SIZES},
        _TIMM,
        dropped=("mask_token", "decoder_.*"),
    ),
    Family(
        "dinov2",
        {
            **{f"dinov2_vit{s}14": (f"vit_{s}14", dict(layer_scale=1.0)) for s in "sbl"},
            **{f"dinov2_vit{s}14_reg": (f"vit_{s}14", _REGISTERS) for s in "sbl"},
        },
        _DINOV2,
        dropped=("mask_token",),
    ),
)
