"""Sizes and inputs that make_attention.py and test_attention_parity.py share."""

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
    """Ids from 3 on; 0, 1 and 2 are padding, begin and end."""
    unit = (recipe.draw(key, shape) / np.sqrt(12) + 0.5).clip(0, 0.999)
    return 3 + (unit * (VOCAB - 3)).astype(np.int64)


SOURCE = _tokens("source", (3, 7))
SOURCE[1, 5:] = PAD
SOURCE[2, 2:] = PAD
TARGET = _tokens("target", (3, 5))
TARGET[:, 0] = 1
TARGET_MASK = np.ones(TARGET.shape, bool)
TARGET_MASK[1, 2] = False

# ViTMAEConfig's names; the decoder narrower than the encoder, as in the paper.
MAE = dict(
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
)
NOISE = recipe.draw("noise", (2, 36))


class Adapted(NamedTuple):
    """Weights of one size or layout, loaded into a network of another by timm and by us.

    Attributes:
      source: of the layout.
      reference: timm's name of the network.
      model: the registry's name.
      trained: what the weights were made for, as arguments of timm's constructor.
      arguments: of timm's constructor for the network that takes them.
      fields: of the model here.
      image_size: of the images.
    """

    source: str
    reference: str
    model: str
    trained: dict[str, Any]
    arguments: dict[str, Any]
    fields: dict[str, Any]
    image_size: tuple[int, int]


_VIT, _SWIN = "vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"
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
    "adapted-swin-windows": Adapted(
        "timm",
        _SWIN,
        "swin_t",
        trained=dict(img_size=64, window_size=4),
        arguments=dict(img_size=96, window_size=6),
        fields=dict(window_size=6),
        image_size=(96, 96),
    ),
    "official-swin": Adapted(
        "swin",
        _SWIN,
        "swin_t",
        trained=dict(img_size=56),
        arguments=dict(img_size=56),
        fields={},
        image_size=(56, 56),
    ),
    "big_vision-vit": Adapted(
        "big_vision",
        _VIT,
        "vit_ti16",
        trained=dict(img_size=48),
        arguments=dict(img_size=48),
        fields={},
        image_size=(48, 48),
    ),
}


def official_swin(key: str) -> str:
    """timm's name of an array of Swin as the official code has it."""
    if key.startswith("head.fc."):
        return key.replace("head.fc.", "head.")
    for stage in (1, 2, 3):
        timm, official = f"layers.{stage}.downsample.", f"layers.{stage - 1}.downsample."
        if key.startswith(timm):
            return key.replace(timm, official)
    return key


def npz_shapes(depth: int, width: int, heads: int, patch: int, patches: int) -> recipe.Shapes:
    """Names and shapes in the files of google-research/vision_transformer, for 1000 classes."""
    head = width // heads
    shapes = {
        "cls": (1, 1, width),
        "embedding/kernel": (patch, patch, 3, width),
        "embedding/bias": (width,),
        "Transformer/posembed_input/pos_embedding": (1, 1 + patches, width),
        "Transformer/encoder_norm/scale": (width,),
        "Transformer/encoder_norm/bias": (width,),
        "head/kernel": (width, 1000),
        "head/bias": (1000,),
    }
    for i in range(depth):
        block = f"Transformer/encoderblock_{i}"
        for layer in ("LayerNorm_0", "LayerNorm_2"):
            shapes[f"{block}/{layer}/scale"] = shapes[f"{block}/{layer}/bias"] = (width,)
        for name in ("query", "key", "value"):
            layer = f"{block}/MultiHeadDotProductAttention_1/{name}"
            shapes[f"{layer}/kernel"], shapes[f"{layer}/bias"] = (width, heads, head), (heads, head)
        layer = f"{block}/MultiHeadDotProductAttention_1/out"
        shapes[f"{layer}/kernel"], shapes[f"{layer}/bias"] = (heads, head, width), (width,)
        for name, (inputs, outputs) in (
            ("Dense_0", (width, 4 * width)),
            ("Dense_1", (4 * width, width)),
        ):
            layer = f"{block}/MlpBlock_3/{name}"
            shapes[f"{layer}/kernel"], shapes[f"{layer}/bias"] = (inputs, outputs), (outputs,)
    return shapes


def npz_weights(shapes: recipe.Shapes) -> dict[str, np.ndarray]:
    """Weights of such a file: small ones, so that twelve blocks stay tame; scales around 1."""
    weights = {}
    for key, shape in shapes.items():
        x = recipe.draw(key, shape)
        if key.endswith("scale"):
            weights[key] = np.float32(1) + np.float32(0.25) * x
        else:
            weights[key] = x * np.float32(0.08)
    return weights
