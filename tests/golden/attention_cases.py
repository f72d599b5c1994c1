"""Sizes and inputs shared by make_attention.py and test_attention_parity.py."""

from typing import Any, NamedTuple

import numpy as np
import recipe

# torch.nn.Transformer's arguments, scaled down.
TRANSFORMER = dict(
    d_model=24,
    nhead=4,
    num_encoder_layers=2,
    num_decoder_layers=2,
    dim_feedforward=40,
)
VOCAB, PAD = 13, 0


def _tokens(key: str, shape: tuple[int, int]) -> np.ndarray:
    """Token ids from 3 on; 0, 1 and 2 are padding, begin and end."""
    unit = (recipe.draw(key, shape) / np.sqrt(12) + 0.5).clip(0, 0.999)
    return 3 + (unit * (VOCAB - 3)).astype(np.int64)


SOURCE = _tokens("source", (3, 7))
SOURCE[1, 5:] = PAD
SOURCE[2, 2:] = PAD
TARGET = _tokens("target", (3, 5))
TARGET[:, 0] = 1
TARGET_MASK = np.ones(TARGET.shape, bool)
TARGET_MASK[1, 2] = False

# ViTMAEConfig's names; the decoder is narrower than the encoder, as in the paper. `mae-base` has
# the widths of the paper's base encoder and decoder, with fewer blocks.
MAE = {
    "mae": dict(
        image_size=48,
        patch_size=8,
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=128,
        decoder_hidden_size=24,
        decoder_num_hidden_layers=2,
        decoder_num_attention_heads=3,
        decoder_intermediate_size=96,
        mask_ratio=0.75,
    ),
    "mae-base": dict(
        image_size=48,
        patch_size=16,
        hidden_size=768,
        num_hidden_layers=2,
        num_attention_heads=12,
        intermediate_size=3072,
        decoder_hidden_size=512,
        decoder_num_hidden_layers=2,
        decoder_num_attention_heads=16,
        decoder_intermediate_size=2048,
        mask_ratio=0.75,
    ),
}


def mae_noise(name: str) -> np.ndarray:
    """Return one number per patch of two images."""
    sizes = MAE[name]
    return recipe.draw("noise", (2, (sizes["image_size"] // sizes["patch_size"]) ** 2))


class Adapted(NamedTuple):
    """Weights of one size or layout, loaded into a network of another by timm and by cv_jax.

    Attributes:
      source: layout of the weights.
      reference: timm's name of the network.
      model: the registry's name.
      trained: sizes of the weights, as arguments of timm's constructor; for big_vision, of
        `npz_weights`.
      arguments: of timm's constructor for the network that loads the weights.
      fields: of the model here.
      image_size: (height, width).
    """

    source: str
    reference: str
    model: str
    trained: dict[str, Any]
    arguments: dict[str, Any]
    fields: dict[str, Any]
    image_size: tuple[int, int]


def official(source: str, reference: str, model: str, size: int) -> Adapted:
    """A case in the official code's layout at one size."""
    arguments = dict(img_size=size)
    return Adapted(source, reference, model, arguments, arguments, {}, (size, size))


def fine_tuned(reference: str, model: str) -> Adapted:
    """A case of the official MAE classifier with two blocks."""
    arguments = dict(img_size=(48, 80), global_pool="avg", depth=2)
    fields = dict(pool="mean", class_token=True, fc_norm=True, depth=2)
    return Adapted("mae", reference, model, arguments, arguments, fields, (48, 80))


_VIT, _SWIN = "vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"
_NPZ = dict(depth=12, width=192, heads=3, patch=16)
ADAPTED = {
    "adapted-vit-positions": Adapted(
        "timm",
        _VIT,
        "vit_ti16",
        trained=dict(img_size=64),
        arguments=dict(img_size=(48, 80)),
        fields={},
        image_size=(48, 80),
    ),
    "adapted-vit-patches": Adapted(
        "timm",
        _VIT,
        "vit_ti16",
        trained=dict(img_size=64),
        arguments=dict(img_size=24, patch_size=8),
        fields=dict(patch_size=8),
        image_size=(24, 24),
    ),
    "adapted-big_vision-positions": Adapted(
        "big_vision",
        _VIT,
        "vit_ti16",
        trained=dict(**_NPZ, patches=16),
        arguments=dict(img_size=(48, 80)),
        fields={},
        image_size=(48, 80),
    ),
    "adapted-big_vision-patches": Adapted(
        "big_vision",
        _VIT,
        "vit_ti16",
        trained=dict(**_NPZ, patches=16),
        arguments=dict(img_size=24, patch_size=8),
        fields=dict(patch_size=8),
        image_size=(24, 24),
    ),
    "adapted-big_vision-class": Adapted(
        "big_vision",
        _VIT,
        "vit_ti16",
        trained=dict(**_NPZ, patches=16, names="big_vision", class_token=True),
        arguments=dict(img_size=48, no_embed_class=True),
        fields=dict(pos_embed_prefix=False),
        image_size=(48, 48),
    ),
    "adapted-swin-windows": Adapted(
        "timm",
        _SWIN,
        "swin_t",
        trained=dict(img_size=64, window_size=4),
        arguments=dict(img_size=96, window_size=6),
        fields=dict(window_size=6),
        image_size=(96, 96),
    ),
    "official-swin": official("swin", _SWIN, "swin_t", 56),
    "official-swin_s": official("swin", "swin_small_patch4_window7_224", "swin_s", 56),
    "official-swinv2": official("swin", "swinv2_tiny_window8_256", "swinv2_t", 64),
    "official-swinv2_s": official("swin", "swinv2_small_window8_256", "swinv2_s", 64),
    # Fine-tuned encoders.
    "official-mae_b": fine_tuned("vit_base_patch16_224", "vit_b16"),
    "official-mae_l": fine_tuned("vit_large_patch16_224", "vit_l16"),
    "big_vision-vit": Adapted(
        "big_vision",
        _VIT,
        "vit_ti16",
        trained=dict(**_NPZ, patches=9),
        arguments=dict(img_size=48),
        fields={},
        image_size=(48, 48),
    ),
    "big_vision-class": Adapted(
        "big_vision",
        _VIT,
        "vit_ti16",
        trained=dict(**_NPZ, patches=9, names="big_vision", class_token=True),
        arguments=dict(img_size=48, no_embed_class=True),
        fields=dict(pos_embed_prefix=False),
        image_size=(48, 48),
    ),
    "big_vision-vit_s32": Adapted(
        "big_vision",
        "vit_small_patch32_224",
        "vit_s32",
        trained=dict(depth=12, width=384, heads=6, patch=32, patches=9, prefix="opt/target/"),
        arguments=dict(img_size=96),
        fields={},
        image_size=(96, 96),
    ),
    "big_vision-mean": Adapted(
        "big_vision",
        _VIT,
        "vit_ti16",
        trained=dict(**_NPZ, patches=9, names="big_vision", prefix="params/"),
        arguments=dict(img_size=48, global_pool="avg", class_token=False, fc_norm=False),
        fields=dict(pool="mean"),
        image_size=(48, 48),
    ),
    "big_vision-map": Adapted(
        "big_vision",
        "vit_small_patch32_224",
        "vit_s32",
        trained=dict(
            **dict(depth=12, width=384, heads=6, patch=32, patches=9),
            **dict(names="big_vision", prefix="params/img/", pool=True, stacked=True),
        ),
        arguments=dict(img_size=96, global_pool="map", class_token=False),
        fields=dict(pool="map"),
        image_size=(96, 96),
    ),
}


def official_swin(key: str) -> str:
    """Return the official code's name of an array of timm's Swin."""
    if key.startswith("head.fc."):
        return key.replace("head.fc.", "head.")
    for stage in (1, 2, 3):
        timm, official = f"layers.{stage}.downsample.", f"layers.{stage - 1}.downsample."
        if key.startswith(timm):
            return key.replace(timm, official)
    return key


def npz_shapes(
    *,
    depth: int,
    width: int,
    heads: int,
    patch: int,
    patches: int,
    names: str = "vision_transformer",
    class_token: bool = False,
    prefix: str = "",
    pool: bool = False,
    stacked: bool = False,
) -> recipe.Shapes:
    """Return names and shapes of google-research's files, for 1000 classes.

    Args:
      depth, width, heads: of the encoder.
      patch: side of a patch.
      patches: number of patches.
      names: "vision_transformer", or "big_vision", where the class token has no position.
      class_token: for big_vision; vision_transformer's networks always have a class token.
      prefix: of all names.
      pool: attention pooling.
      stacked: blocks are stacked along a first axis.
    """
    google = names == "vision_transformer"
    positions = "Transformer/posembed_input/pos_embedding" if google else "pos_embedding"
    shapes = {
        "embedding/kernel": (patch, patch, 3, width),
        "embedding/bias": (width,),
        positions: (1, google + patches, width),
        "Transformer/encoder_norm/scale": (width,),
        "Transformer/encoder_norm/bias": (width,),
        "head/kernel": (width, 1000),
        "head/bias": (1000,),
    }
    if google or class_token:
        shapes["cls"] = (1, 1, width)

    def attention(layer, first):
        for name in ("query", "key", "value"):
            shapes[f"{layer}/{name}/kernel"] = (*first, width, heads, width // heads)
            shapes[f"{layer}/{name}/bias"] = (*first, heads, width // heads)
        shapes[f"{layer}/out/kernel"] = (*first, heads, width // heads, width)
        shapes[f"{layer}/out/bias"] = (*first, width)

    def norm(layer, first):
        shapes[f"{layer}/scale"] = shapes[f"{layer}/bias"] = (*first, width)

    def mlp(layer, first):
        for name, (inputs, outputs) in (
            ("Dense_0", (width, 4 * width)),
            ("Dense_1", (4 * width, width)),
        ):
            shapes[f"{layer}/{name}/kernel"] = (*first, inputs, outputs)
            shapes[f"{layer}/{name}/bias"] = (*first, outputs)

    blocks = [""] if stacked else [f"_{i}" for i in range(depth)]
    first = (depth,) if stacked else ()
    for i in blocks:
        block = f"Transformer/encoderblock{i}"
        norm(f"{block}/LayerNorm_0", first)
        attention(f"{block}/MultiHeadDotProductAttention_{1 if google else 0}", first)
        norm(f"{block}/LayerNorm_{2 if google else 1}", first)
        mlp(f"{block}/MlpBlock_{3 if google else 0}", first)
    if pool:
        shapes["MAPHead_0/probe"] = (1, 1, width)
        attention("MAPHead_0/MultiHeadDotProductAttention_0", ())
        norm("MAPHead_0/LayerNorm_0", ())
        mlp("MAPHead_0/MlpBlock_0", ())
    return {prefix + key: shape for key, shape in shapes.items()}


def npz_weights(**sizes) -> dict[str, np.ndarray]:
    """Return weights of such a file: small, to keep twelve blocks stable, with scales around 1.

    Args:
      **sizes: of `npz_shapes`.
    """
    weights = {}
    for key, shape in npz_shapes(**sizes).items():
        x = recipe.draw(key, shape)
        if key.endswith("scale"):
            weights[key] = np.float32(1) + np.float32(0.25) * x
        else:
            weights[key] = x * np.float32(0.08)
    return weights
