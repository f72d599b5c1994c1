"""Resampling of positions, bias tables and patch kernels for other image, window or patch sizes.

ViT's positions are resampled with the method of the source's own loader, patch kernels with
FlexiViT's pseudo-inverse of that method. Swin's bias tables are resampled bicubically, as in the
official code; timm's weights use timm's method.

The grid of the weights follows from the model and the images that they were trained on. Without
these facts it must be square.
"""

import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from cv_jax import models
from cv_jax.errors import InputError
from cv_jax.models.positions import resize_patch_kernel, resize_positions
from cv_jax.models.swin import stage_windows
from cv_jax.models.vit import ViT
from cv_jax.models.windows import resize_bias_table

PATCHES = "params/patch_embed/kernel"
POSITIONS = "params/pos_embed"
TABLE = re.compile(r"params/layers_(\d+)/blocks_\d+/attn/relative_position_bias_table")


# MAE's fine-tuning code, timm's loader of Google's files, and the official networks of DINOv2
# without registers; others: timm's method.
METHODS = {"mae": "bicubic", "big_vision": "bilinear", "dinov2": "bicubic_offset"}
METHODS |= {"transformers": "bicubic"}  # `interpolate_pos_encoding`


class Trained(NamedTuple):
    """How weights were trained.

    Attributes:
      model: the module, with the fields of the weights.
      image_size: (height, width) of its input.
    """

    model: Any
    image_size: tuple[int, int]

    @classmethod
    def of(cls, model_name: str, image_size: tuple[int, int], fields: Mapping[str, Any]):
        """Return the facts of the registry's model with these fields.

        Raises:
          InputError: the model or a field is unknown.
        """
        fields = dict(fields)
        try:
            if "image_size" in models.fields(model_name):
                fields["image_size"] = image_size
            return cls(models.create(model_name, **fields), image_size)
        except ValueError as error:
            raise InputError(str(error)) from None


def may_be_resized(path: str) -> bool:
    """Whether the array at `path` depends on an image, window or patch size."""
    return path in (PATCHES, POSITIONS) or TABLE.fullmatch(path) is not None


def fits_resized(path: str, got: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    """Whether an array of shape `got` can be resampled to the shape `wanted`."""
    if path == PATCHES:
        return got[2:] == wanted[2:]
    if path == POSITIONS:
        return got[::2] == wanted[::2]
    return got[1:] == wanted[1:]


def resize(
    arrays: Mapping[str, np.ndarray],
    model: Any,
    image_size: tuple[int, int],
    source: str = "timm",
    trained: Trained | None = None,
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Resample the arrays whose size differs from the model's, and drop tokens that it lacks.

    Args:
      arrays: by path.
      model: the target module.
      image_size: (height, width) of the model's input.
      source: selects the resampling method; "" is timm's.
      trained: of the arrays; default: unknown, so positions and bias tables must be square.

    Returns:
      `(arrays, notes)`, with one sentence for each kind of changed array.

    Raises:
      InputError: positions or a bias table do not fit `trained`, or without it have no certain
        shape.
    """
    arrays, notes = _without_tokens(arrays, model, trained)
    method = METHODS.get(source, "bicubic_antialias")
    kernel = arrays.get(PATCHES)
    patch = getattr(model, "patch_size", None)
    if kernel is not None and patch is not None and kernel.shape[:2] != (patch, patch):
        patch_method = "bicubic_antialias" if source == "dinov2" else method
        arrays[PATCHES] = resize_patch_kernel(kernel, (patch, patch), patch_method)
        notes.append(
            f"patches resized from {kernel.shape[0]}x{kernel.shape[1]} to {patch}x{patch} pixels"
        )
    if POSITIONS in arrays:
        table, prefix, new = arrays[POSITIONS], model.pos_embed_prefix_tokens(), model.check()
        old = _trained_grid(table.shape[1], prefix, new, kernel, trained)
        if source == "dinov2" and model.registers:
            method = "bicubic_antialias"
        if old != new:
            arrays[POSITIONS] = resize_positions(table, old, new, prefix, method)
            notes.append(f"positions resized from {old[0]}x{old[1]} to {new[0]}x{new[1]} patches")
    changed = {}
    for path, table in arrays.items():
        match = TABLE.fullmatch(path)
        if not match:
            continue
        stage = int(match[1])
        new = stage_windows(model, image_size)[stage]
        old = _trained_window(path, len(table), stage, new, trained)
        if old != new:
            table_method = "geometric" if source in ("timm", "") else "bicubic"
            arrays[path] = resize_bias_table(table, old, new, table_method)
            changed[old, new] = (
                f"bias tables resized from {old[0]}x{old[1]} to {new[0]}x{new[1]} windows"
            )
    return arrays, [*notes, *changed.values()]


def _without_tokens(
    arrays: Mapping[str, np.ndarray], model: Any, trained: Trained | None
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Drop tokens before the patches that a ViT does not have, and their positions."""
    if trained is None or not (isinstance(model, ViT) and isinstance(trained.model, ViT)):
        return dict(arrays), []
    keep, extra = [], []
    for name, needed in model.tokens().items():
        token = arrays.get(f"params/{name}")
        if token is not None:
            keep += [needed > 0] * token.shape[1]
            extra += [] if needed else [f"params/{name}"]
    if not extra:
        return dict(arrays), []
    kept = {path: x for path, x in arrays.items() if path not in extra}
    if POSITIONS in kept and trained.model.pos_embed_prefix:
        table = kept[POSITIONS]
        before, patches = np.split(table, [len(keep)], axis=1)
        kept[POSITIONS] = np.concatenate([before[:, keep], patches], axis=1)
    return kept, [f"{' and '.join(extra)} dropped"]


def _trained_grid(positions, prefix, new, kernel, trained) -> tuple[int, int]:
    """Return (rows, columns) of the patches that the positions were trained on."""
    if trained is None:
        try:
            return _without_facts(POSITIONS, positions - prefix, new)
        except InputError as error:
            if math.isqrt(positions) ** 2 != positions:
                raise
            raise InputError(
                f"{error}; all {positions} positions do: if the class token has no position, as in "
                f"big_vision, set the field pos_embed_prefix=False"
            ) from None
    size = trained.image_size
    patch = (trained.model.patch_size,) * 2 if kernel is None else kernel.shape[:2]
    grid = size[0] // patch[0], size[1] // patch[1]
    if positions != prefix + grid[0] * grid[1]:
        raise InputError(
            f"{POSITIONS} has {positions} positions; images of {size[0]}x{size[1]} with patches of "
            f"{patch[0]}x{patch[1]} need {prefix} + {grid[0]}x{grid[1]}"
        )
    return grid


def _trained_window(path, rows, stage, new, trained) -> tuple[int, int]:
    """Return height and width of the window that a bias table was trained on."""
    if trained is None:
        sides = _without_facts(path, rows, tuple(2 * side - 1 for side in new))
        if not sides[0] % 2:
            raise InputError(f"{path}: {rows} rows are no bias table: its sides must be odd")
        return (sides[0] + 1) // 2, (sides[1] + 1) // 2
    size = trained.image_size
    window = stage_windows(trained.model, size)[stage]
    expected = (2 * window[0] - 1) * (2 * window[1] - 1)
    if rows != expected:
        raise InputError(
            f"{path} has {rows} rows; windows of {window[0]}x{window[1]} on images of "
            f"{size[0]}x{size[1]} need {expected}"
        )
    return window


def _without_facts(path: str, count: int, new: tuple[int, int]) -> tuple[int, int]:
    """Return the only possible shape of a table: square, or else the shape that the model needs."""
    side, same = math.isqrt(max(count, 0)), count == new[0] * new[1]
    square = side > 0 and side * side == count
    remedy = "state the size of the training images: --trained-size HEIGHTxWIDTH"
    if square and same and new[0] != new[1]:
        raise InputError(
            f"{path}: {count} positions form a grid of {side}x{side} or {new[0]}x{new[1]}; {remedy}"
        )
    if square:
        return side, side
    if same:
        return new
    raise InputError(f"{path}: {count} positions do not form a square grid; {remedy}")
