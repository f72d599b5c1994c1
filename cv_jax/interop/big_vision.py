"""Mapping table for ViT weights in Google's `.npz` files.

The files store queries, keys and values as separate arrays with an axis for the heads, so the table
depends on the number of heads. google-research/vision_transformer (weights of the ViT paper and of
AugReg) and google-research/big_vision use different names for some layers. The table has the names
of vision_transformer; `plain_names` renames big_vision's arrays. Exported files always have
vision_transformer's names, also for models without a class token or with attention pooling, which
only big_vision has.
"""

import re
from collections.abc import Mapping

import numpy as np

from cv_jax.interop.tables import Family, Rule, one
from cv_jax.interop.transforms import SAME, Transform

# Key prefixes of the weights in training states.
PREFIXES = ("opt/target/", "params/", "params/img/")
_STACKED = "Transformer/encoderblock/"
_LAYERS = {
    "LayerNorm_1": "LayerNorm_2",
    "MlpBlock_0": "MlpBlock_3",
    "MultiHeadDotProductAttention_0": "MultiHeadDotProductAttention_1",
}
_POSITIONS = "Transformer/posembed_input/pos_embedding"


def plain_names(state_dict: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the arrays of a file under vision_transformer's names.

    Optimiser states and the text tower of an image-text model are dropped. Layers stacked for
    `scan` are split into one block each.
    """
    prefix = next((p for p in PREFIXES if f"{p}embedding/kernel" in state_dict), "")
    plain = {k.removeprefix(prefix): x for k, x in state_dict.items() if k.startswith(prefix)}
    if "pos_embedding" not in plain:
        return plain
    plain[_POSITIONS] = plain.pop("pos_embedding")
    for key in [key for key in plain if key.startswith(_STACKED)]:
        layer = key.removeprefix(_STACKED)
        for i, x in enumerate(plain.pop(key)):
            plain[f"Transformer/encoderblock_{i}/{layer}"] = x
    return {_block_names(key): x for key, x in plain.items()}


def _block_names(key: str) -> str:
    match = re.fullmatch(r"(Transformer/encoderblock_\d+)/(\w+)/(.*)", key)
    if match is None:
        return key
    block, layer, rest = match.groups()
    return f"{block}/{_LAYERS.get(layer, layer)}/{rest}"


def _fused(heads: int, count: int) -> Transform:
    """Transform `count` arrays [..., heads, head_dim] into one array [..., count·D]."""

    def load(*parts):
        return (np.concatenate([x.reshape(*x.shape[:-2], -1) for x in parts], axis=-1),)

    def export(x):
        parts = np.split(x, count, axis=-1)
        return tuple(y.reshape(*y.shape[:-1], heads, -1) for y in parts)

    return Transform(load, export)


def _merged(heads: int) -> Transform:
    """Transform the output projection [heads, head_dim, D] into a matrix [heads·head_dim, D]."""
    return Transform(
        lambda x: (x.reshape(-1, x.shape[-1]),), lambda x: (x.reshape(heads, -1, x.shape[-1]),)
    )


_QUERY = Transform(lambda x: (x[0],), lambda x: (x[None],))


def _same(theirs: str, ours: str, weight: str = "kernel") -> list[Rule]:
    """Rules for a layer with the same array shapes on both sides."""
    return [one(f"{theirs}/{x}", f"params/{ours}/{x}", SAME) for x in (weight, "bias")]


def _attention(theirs: str, ours: str, heads: int, inputs: dict[str, tuple[str, ...]]):
    """Rules for attention; `inputs` maps a layer here to the source layers that it fuses."""
    rules = [
        Rule(
            tuple(f"{theirs}/{name}/{x}" for name in names),
            (f"params/{ours}/{layer}/{x}",),
            _fused(heads, len(names)),
        )
        for layer, names in inputs.items()
        for x in ("kernel", "bias")
    ]
    return [
        *rules,
        one(f"{theirs}/out/kernel", f"params/{ours}/proj/kernel", _merged(heads)),
        one(f"{theirs}/out/bias", f"params/{ours}/proj/bias"),
    ]


def _rules(heads: int) -> list[Rule]:
    theirs, ours = "Transformer/encoderblock_{}", "blocks_{}"
    attention = f"{theirs}/MultiHeadDotProductAttention_1"
    pool = "MAPHead_0/MultiHeadDotProductAttention_0"
    return [
        one("cls", "params/cls_token"),
        *_same("embedding", "patch_embed"),
        one(_POSITIONS, "params/pos_embed"),
        *_same(f"{theirs}/LayerNorm_0", f"{ours}/norm1", "scale"),
        *_attention(attention, f"{ours}/attn", heads, {"qkv": ("query", "key", "value")}),
        *_same(f"{theirs}/LayerNorm_2", f"{ours}/norm2", "scale"),
        *_same(f"{theirs}/MlpBlock_3/Dense_0", f"{ours}/mlp/fc1"),
        *_same(f"{theirs}/MlpBlock_3/Dense_1", f"{ours}/mlp/fc2"),
        *_same("Transformer/encoder_norm", "norm", "scale"),
        one("MAPHead_0/probe", "params/pool/query", _QUERY),
        *_attention(pool, "pool", heads, {"q": ("query",), "kv": ("key", "value")}),
        *_same("MAPHead_0/LayerNorm_0", "pool/norm", "scale"),
        *_same("MAPHead_0/MlpBlock_0/Dense_0", "pool/mlp/fc1"),
        *_same("MAPHead_0/MlpBlock_0/Dense_1", "pool/mlp/fc2"),
        *_same("head", "head"),
    ]


FAMILIES = tuple(
    Family(
        "big_vision",
        {
            f"{size.capitalize()}_{p}": (f"vit_{size}{p}", {})
            for size in sizes
            for p in (8, 14, 16, 32)
        },
        _rules(heads),
        ignored=("pre_logits/(kernel|bias)",),
        renamed=plain_names,
    )
    for heads, sizes in ((3, ["ti"]), (6, ["s"]), (12, ["b"]), (16, ["l", "h"]))
)
