"""timm's names of ViTs that are the networks here with other fields.

A name gives the image size of the published weights, which changes no array but the positions.
"""

from typing import Any

Names = dict[str, tuple[str, dict[str, Any]]]

_SIZES = {"tiny": "ti", "small": "s", "base": "b", "large": "l", "huge": "h"}
# Sizes without a registry entry: fields of a network with 16×16 patches.
_OTHER_SIZES = {
    "wee": dict(width=256, depth=14, num_heads=4, mlp_ratio=5.0),
    "little": dict(width=320, depth=14, num_heads=5, mlp_ratio=5.6),
    "medium": dict(width=512, num_heads=8),
    "mediumd": dict(width=512, depth=20, num_heads=8),
    "betwixt": dict(width=640, num_heads=10),
    "so150m": dict(width=896, depth=18, num_heads=14, mlp_ratio=2.572),
    "so400m": dict(width=1152, depth=27, num_heads=16, mlp_ratio=3.7362),
    "giant": dict(width=1408, depth=40, num_heads=16, mlp_ratio=48 / 11),
    "giantopt": dict(width=1536, depth=40, num_heads=16),
    "gigantic": dict(width=1664, depth=48, num_heads=16, mlp_ratio=64 / 13),
}
_PLUS = dict(width=896, num_heads=14, layer_scale=1e-5)
_REGISTERS = dict(pool="mean", pos_embed_prefix=False, fc_norm=True)
_DEIT_3 = dict(layer_scale=1e-6, pos_embed_prefix=False)
_DISTILLED_CLIP = dict(pool="mean", class_token=True, fc_norm=True)


def _entry(size: str, patch: int, **fields: Any) -> tuple[str, dict[str, Any]]:
    if size in _SIZES:
        return f"vit_{_SIZES[size]}{patch}", fields
    return f"vit_b{patch}", {**_OTHER_SIZES[size], **fields}


def _vits() -> Names:
    """Return ViTs with a class token."""
    names = {}
    for side, sizes in (
        (224, {"tiny": (16,), "small": (8, 16, 32), "base": (8, 16, 32)}),
        (224, {"large": (14, 16, 32), "huge": (14,), "giant": (14,), "gigantic": (14,)}),
        (384, {"tiny": (16,), "small": (16, 32), "base": (16, 32), "large": (16, 32)}),
    ):
        for size, patches in sizes.items():
            for patch in patches:
                names[f"vit_{size}_patch{patch}_{side}"] = _entry(size, patch)
    for size in ("small", "base", "large"):
        names[f"vit_{size}_patch14_dinov2"] = _entry(size, 14, layer_scale=1e-5)
        registers = dict(layer_scale=1e-5, registers=4, pos_embed_prefix=False)
        names[f"vit_{size}_patch14_reg4_dinov2"] = _entry(size, 14, **registers)
        names[f"flexivit_{size}"] = _entry(size, 16, pos_embed_prefix=False)
    registers = dict(layer_scale=1.0, registers=1, pos_embed_prefix=False)
    for size, fields in (("base", {}), ("large", {}), ("so400m", dict(mlp_ratio=269 / 72))):
        names[f"vit_{size}_patch14_reg1_tipsv2"] = _entry(size, 14, **registers, **fields)
    names["vit_base_patch16_plus_240"] = _entry("base", 16, **_PLUS)
    names["vit_base_patch32_plus_256"] = _entry("base", 32, **_PLUS)
    names["vit_small_patch16_36x1_224"] = _entry("small", 16, depth=36, layer_scale=1e-5)
    for side in (196, 336):
        names[f"eva_large_patch14_{side}"] = _entry("large", 14, **_DISTILLED_CLIP)
    return names


def _pooled() -> Names:
    """Return ViTs without a class token: pooled by the mean or by attention."""
    names = {
        "vit_base_patch16_gap_224": _entry("base", 16, pool="mean", num_heads=16),
        "vit_huge_patch14_gap_224": _entry("huge", 14, pool="mean"),
        "vit_huge_patch16_gap_448": _entry("huge", 16, pool="mean"),
        "vit_giant_patch16_gap_224": _entry("giant", 16, pool="mean"),
        "vit_base_patch16_reg4_gap_256": _entry("base", 16, registers=4, **_REGISTERS),
        "vit_so150m_patch16_reg4_gap_256": _entry("so150m", 16, registers=4, pool="mean"),
        "vit_so150m_patch16_reg4_gap_384": _entry("so150m", 16, registers=4, pool="mean"),
    }
    for size, registers, side in (
        *((size, count, 256) for size in ("little", "medium", "betwixt") for count in (1, 4)),
        *(("wee", 1, 256), ("mediumd", 4, 256), ("mediumd", 4, 384), ("betwixt", 4, 384)),
    ):
        fields = dict(registers=registers, layer_scale=1e-5, **_REGISTERS)
        names[f"vit_{size}_patch16_reg{registers}_gap_{side}"] = _entry(size, 16, **fields)
    tanh = dict(act="gelu_tanh")
    for size, patch, fields, sides in (
        ("base", 16, {}, (224, 256, 384, 512)),
        ("base", 32, tanh, (256,)),
        ("large", 16, {}, (256, 384)),
        ("large", 16, tanh, (512,)),
        ("giantopt", 16, tanh, (256, 384)),
        ("so400m", 14, {}, (224, 378, 384)),
        ("so400m", 16, tanh, (256, 384, 512)),
    ):
        for side in sides:
            for pool, infix in (("map", ""), ("mean", "gap_")):
                name = f"vit_{size}_patch{patch}_siglip_{infix}{side}"
                names[name] = _entry(size, patch, pool=pool, **fields)
    for side in (448, 896):
        names[f"vit_so400m_patch14_siglip_gap_{side}"] = _entry("so400m", 14, pool="mean")
    return names


def _deits() -> Names:
    names = {}
    for size, side in (("tiny", 224), ("small", 224), ("base", 224), ("base", 384)):
        for infix, ours in (("", ""), ("distilled_", "_distilled")):
            model = f"deit_{_SIZES[size]}16{ours}"
            names[f"deit_{size}_{infix}patch16_{side}"] = (model, {})
    for size, patch, sides in (
        *(("small", 16, (224, 384)), ("base", 16, (224, 384)), ("large", 16, (224, 384))),
        *(("medium", 16, (224,)), ("huge", 14, (224,))),
    ):
        for side in sides:
            names[f"deit3_{size}_patch{patch}_{side}"] = _entry(size, patch, **_DEIT_3)
    return names


VITS: Names = {**_vits(), **_pooled(), **_deits()}
