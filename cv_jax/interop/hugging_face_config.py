"""Reads `config.json` and `preprocessor_config.json` of Hugging Face's transformers.

The fields of `config.json` describe a network of any size, so they give the fields of the model
here; the registry's model with the fewest other fields lends its name.
"""

import math
import typing
from collections.abc import Iterable, Mapping
from typing import Any

from cv_jax import models
from cv_jax.config.values import check
from cv_jax.errors import InputError
from cv_jax.interop import hugging_face
from cv_jax.interop.hub_config import Description, class_names_of
from cv_jax.interop.weights import FAMILIES

_ACTIVATIONS = {
    "gelu": "gelu",
    **dict.fromkeys(("gelu_new", "gelu_fast", "gelu_pytorch_tanh"), "gelu_tanh"),
    **dict.fromkeys(("silu", "swish"), "silu"),
    **{name: name for name in ("relu", "tanh", "sigmoid")},
}
_METHODS = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}  # Pillow's numbers
_DEFAULT_EDGE = 384  # from this size on, ConvNextImageProcessor resizes without a crop

Config = Mapping[str, Any]


def describe(config: Config, preprocessor: Config, keys: Iterable[str], place: str) -> Description:
    """Return the facts of a folder of transformers.

    Args:
      config: the content of `config.json`; it has a `model_type`.
      preprocessor: the content of `preprocessor_config.json`; {} if there is none.
      keys: names of the arrays, which tell a base model from a classifier.
      place: of the weights, for messages.

    Raises:
      InputError: the network has no counterpart here, or a value has another form.
    """
    kind = config["model_type"]
    if kind not in _FIELDS:
        raise InputError(
            f"{place}: no cv_jax model corresponds to the model_type {kind!r} of transformers; "
            f"known: {', '.join(_FIELDS)}"
        )
    try:
        pattern, fields = _FIELDS[kind](config, {part for key in keys for part in key.split(".")})
        size = config.get("image_size")
        size = (size, size) if isinstance(size, int) else size and tuple(map(int, size))
        facts, output = _preprocessing(preprocessor)
        names = class_names_of(config)
    except (KeyError, TypeError, ValueError, AttributeError, ZeroDivisionError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise InputError(f"cannot read the config.json of {place}: {reason}") from None
    except InputError as error:
        raise InputError(f"{place}: config.json has {error}") from None
    model, changed = _nearest(pattern, fields)
    hints = typing.get_type_hints(models.MODELS[model].module)
    for name, value in changed.items():
        check(value, hints[name], f"{place}: the {name} in config.json")
    notes = ()
    if size and output and output != size:
        notes = (
            f"preprocessor_config.json prepares images of {output[0]}x{output[1]}, config.json "
            f"describes a network for {size[0]}x{size[1]}, which is used",
        )
    if all(name == f"LABEL_{i}" for i, name in enumerate(names)):
        names = ()  # transformers' placeholders
    return Description(
        image_size=size or output,
        preprocessing=facts,
        class_names=names,
        source=hugging_face.SOURCE,
        model=model,
        fields=changed,
        notes=notes,
        trained_size=None if pattern.startswith("swin") else size,
    )


def _nearest(prefix: str, fields: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return the model whose defaults differ in the fewest fields, and these fields."""
    candidates = {}
    for family in FAMILIES:
        if family.source == hugging_face.SOURCE:
            for name in family.references:
                if name.startswith(prefix):
                    known = models.fields(name)
                    candidates[name] = {k: v for k, v in fields.items() if v != known[k]}
    return min(candidates.items(), key=lambda item: len(item[1]))


def _require(config: Config, **allowed: Any) -> None:
    """Raise an InputError if a value is present and is not the allowed one."""
    for name, value in allowed.items():
        if config.get(name, value) != value:
            raise InputError(f"{name}={config[name]!r}, but models here have {value!r}")


def _activation(config: Config) -> str:
    name = config.get("hidden_act", "gelu")
    if name not in _ACTIVATIONS:
        raise InputError(f"hidden_act={name!r}, which no model here has")
    return _ACTIVATIONS[name]


def _side(size: int | list[int]) -> int:
    sides = {size} if isinstance(size, int) else set(size)
    if len(sides) != 1:
        raise InputError(f"patch_size={size}; patches must be square")
    return sides.pop()


def _encoder(config: Config) -> dict[str, Any]:
    _require(config, qkv_bias=True)
    width = config.get("hidden_size", 768)
    ratio = config.get("mlp_ratio") or config.get("intermediate_size", 3072) / width
    return dict(
        width=width,
        depth=config.get("num_hidden_layers", 12),
        num_heads=config.get("num_attention_heads", 12),
        mlp_ratio=float(ratio),
        patch_size=_side(config.get("patch_size", 16)),
        norm_epsilon=config.get("layer_norm_eps", 1e-12),
    )


def _vit(config: Config, parts: set[str]) -> tuple[str, dict[str, Any]]:
    return "vit_", {**_encoder(config), "act": _activation(config)}


def _deit(config: Config, parts: set[str]) -> tuple[str, dict[str, Any]]:
    fields = {**_encoder(config), "act": _activation(config)}
    if "classifier" in parts:  # reads the class token only
        return "vit_", {**fields, "registers": 1}
    return "deit_", fields


def _mae(config: Config, parts: set[str]) -> tuple[str, dict[str, Any]]:
    if "decoder" not in parts:
        return _vit(config, parts)
    _require(config, hidden_act="gelu")
    encoder = _encoder(config)
    width = config.get("decoder_hidden_size", 512)
    ratio = config.get("decoder_intermediate_size", 2048) / width
    if ratio != encoder["mlp_ratio"]:
        raise InputError(
            f"MLPs {ratio:g} times as wide as the tokens in the decoder and "
            f"{encoder['mlp_ratio']:g} times in the encoder; the ratios must be equal"
        )
    return "mae_vit_", dict(
        **encoder,
        decoder_width=width,
        decoder_depth=config.get("decoder_num_hidden_layers", 8),
        decoder_num_heads=config.get("decoder_num_attention_heads", 16),
        mask_ratio=config.get("mask_ratio", 0.75),
        norm_pix_loss=config.get("norm_pix_loss", False),
    )


def _dinov2(config: Config, parts: set[str]) -> tuple[str, dict[str, Any]]:
    _require(config, use_swiglu_ffn=False)
    fields = {"layer_norm_eps": 1e-6, "mlp_ratio": 4, **config}
    fields = dict(
        _encoder(fields),
        act=_activation(config),
        layer_scale=float(config.get("layerscale_value", 1.0)),
        pool="cls_mean" if "classifier" in parts else "cls",
    )
    if config["model_type"] == "dinov2_with_registers":
        registers = config.get("num_register_tokens", 4)
        fields.update(registers=registers, pos_embed_prefix=False)
    return "vit_", fields


def _swin(config: Config, parts: set[str]) -> tuple[str, dict[str, Any]]:
    _require(config, qkv_bias=True, use_absolute_embeddings=False, layer_norm_eps=1e-5)
    _require(config, hidden_act="gelu")
    version = 2 if config["model_type"] == "swinv2" else 1
    fields = dict(
        version=version,
        patch_size=_side(config.get("patch_size", 4)),
        width=config.get("embed_dim", 96),
        depths=tuple(config.get("depths", (2, 2, 6, 2))),
        num_heads=tuple(config.get("num_heads", (3, 6, 12, 24))),
        window_size=config.get("window_size", 7),
        mlp_ratio=float(config.get("mlp_ratio", 4.0)),
        window_rule=_window_rule(config),
    )
    if version == 2:
        windows = tuple(config.get("pretrained_window_sizes", (0,)))[: len(fields["depths"])]
        fields["pretrained_windows"] = windows if any(windows) else (0,)
    return "swin" if version == 1 else "swinv2", fields


def _window_rule(config: Config) -> str:
    """Return the rule of the model here that is transformers' for maps of this image size.

    transformers shrinks the window to a smaller map, and pads a larger map before the shift.
    """
    size = config.get("image_size", 224)
    side = -(-max([size] if isinstance(size, int) else size) // _side(config.get("patch_size", 4)))
    window, divides = config.get("window_size", 7), []
    for stage in range(len(config.get("depths", (2, 2, 6, 2)))):
        tokens = math.ceil(side / 2**stage)
        divides.append(tokens <= window or tokens % window == 0)
    return "shrink" if all(divides) else "pad"


def _resnet(config: Config, parts: set[str]) -> tuple[str, dict[str, Any]]:
    _require(config, hidden_act="relu", downsample_in_first_stage=False)
    block = config.get("layer_type", "bottleneck")
    widths = config.get("hidden_sizes", (256, 512, 1024, 2048))
    return "resnet", dict(
        block=block,
        widths=tuple(width // (4 if block == "bottleneck" else 1) for width in widths),
        stage_sizes=tuple(config.get("depths", (3, 4, 6, 3))),
        stem_width=config.get("embedding_size", 64),
        stride_in="1x1" if config.get("downsample_in_bottleneck") else "3x3",
    )


_FIELDS = {
    "vit": _vit,
    "deit": _deit,
    "vit_mae": _mae,
    "dinov2": _dinov2,
    "dinov2_with_registers": _dinov2,
    "swin": _swin,
    "swinv2": _swin,
    "resnet": _resnet,
}


def _preprocessing(facts: Config) -> tuple[dict[str, Any], tuple[int, int] | None]:
    """Return the preprocessing in timm's terms, and height and width of the prepared image."""
    if not facts:
        return {}, None
    # Pixels are multiplied by the factor, then normalised; here they are in 0…1.
    factor = facts.get("rescale_factor", 1 / 255) if facts.get("do_rescale", True) else 1
    scale = round(255 * factor, 9)
    normalised = facts.get("do_normalize", True) and "image_mean" in facts
    mean, std = (facts["image_mean"], facts["image_std"]) if normalised else ([0.0], [1.0])
    result = {"mean": [x / scale for x in mean], "std": [x / scale for x in std]}

    name = facts.get("image_processor_type") or facts.get("feature_extractor_type") or ""
    size, short, resized = facts.get("size", 224), None, None
    if isinstance(size, int):
        resized, short = (size, size), size if name.startswith("ConvNext") else None
    elif "shortest_edge" in size:
        short = size["shortest_edge"]
        resized = (short, short)
    else:
        resized = (size["height"], size["width"])
    crop = resized
    if name.startswith("ConvNext"):
        if short < _DEFAULT_EDGE:
            side = int(short / facts.get("crop_pct", 224 / 256))
            resized = (side, side)
        else:
            short = None
    elif facts.get("do_center_crop"):
        crop = facts.get("crop_size", 224)
        crop = (crop, crop) if isinstance(crop, int) else (crop["height"], crop["width"])
    method = _METHODS.get(facts.get("resample", 2))
    if not facts.get("do_resize", True) or method is None or (short and crop[0] != crop[1]):
        return {**result, "crop_mode": "unknown"}, crop
    return {
        **result,
        "interpolation": method,
        "crop_pct": crop[0] / resized[0],
        "crop_mode": "squash" if short is None else "center",
    }, crop
