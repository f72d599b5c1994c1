"""Resampling of positions, bias tables and patch kernels for other image, window or patch sizes.

All published weights are trained on a square grid. ViT's positions are resampled with the method of
the source's own loader, patch kernels with FlexiViT's pseudo-inverse of that method. Swin's bias
tables are resampled bicubically, as in the official code; timm's weights use timm's method.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from cv_jax.errors import InputError
from cv_jax.models.positions import resize_patch_kernel, resize_positions
from cv_jax.models.swin import stage_windows
from cv_jax.models.windows import resize_bias_table

PATCHES = "params/patch_embed/kernel"
POSITIONS = "params/pos_embed"
TABLE = re.compile(r"params/layers_(\d+)/blocks_\d+/attn/relative_position_bias_table")


# MAE's fine-tuning code, and timm's loader of Google's files; others: timm's own weights.
METHODS = {"mae": "bicubic", "big_vision": "bilinear"}


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
    trained_size: tuple[int, int] | None = None,
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Resample the arrays whose size differs from the model's.

    Args:
      arrays: by path.
      model: the target module.
      image_size: (height, width) of the model's input.
      source: selects the resampling method.
      trained_size: (height, width) of the training images; default: square images of any side.

    Returns:
      `(arrays, notes)`, with one sentence for each kind of resampled array.

    Raises:
      InputError: positions or a bias table do not form a square grid.
    """
    arrays, notes = dict(arrays), []
    method = METHODS.get(source, "bicubic_antialias")
    kernel = arrays.get(PATCHES)
    patch = getattr(model, "patch_size", None)
    if kernel is not None and patch is not None and kernel.shape[:2] != (patch, patch):
        arrays[PATCHES] = resize_patch_kernel(kernel, (patch, patch), method)
        notes.append(
            f"patches resized from {kernel.shape[0]}x{kernel.shape[1]} to {patch}x{patch} pixels"
        )
    if POSITIONS in arrays:
        table, prefix, new = arrays[POSITIONS], model.pos_embed_prefix_tokens(), model.check()
        if table.shape[1] != prefix + new[0] * new[1]:
            old = _trained_grid(table.shape[1], prefix, kernel, trained_size)
            arrays[POSITIONS] = resize_positions(table, old, new, prefix, method)
            notes.append(f"positions resized from {old[0]}x{old[1]} to {new[0]}x{new[1]} patches")
    changed = {}
    for path, table in arrays.items():
        match = TABLE.fullmatch(path)
        if not match:
            continue
        new = stage_windows(model, image_size)[int(match[1])]
        if len(table) != (2 * new[0] - 1) * (2 * new[1] - 1):
            old = ((_square(path, len(table)) + 1) // 2,) * 2
            table_method = "geometric" if source == "timm" else "bicubic"
            arrays[path] = resize_bias_table(table, old, new, table_method)
            changed[old, new] = (
                f"bias tables resized from {old[0]}x{old[1]} to {new[0]}x{new[1]} windows"
            )
    return arrays, [*notes, *changed.values()]


def _trained_grid(positions, prefix, kernel, trained_size) -> tuple[int, int]:
    """Return (rows, columns) of the patches that the positions were trained on."""
    if trained_size is not None and kernel is not None:
        rows, columns = (
            side // patch for side, patch in zip(trained_size, kernel.shape, strict=False)
        )
        if rows * columns == positions - prefix:
            return rows, columns
    try:
        return (_square(POSITIONS, positions - prefix),) * 2
    except InputError as error:
        if math.isqrt(positions) ** 2 != positions:
            raise
        raise InputError(
            f"{error}; all {positions} positions do: if the class token has no position, as in "
            f"big_vision, set the field pos_embed_prefix=False"
        ) from None


def _square(path: str, count: int) -> int:
    side = math.isqrt(max(count, 0))
    if side * side != count or not side:
        raise InputError(f"{path}: {count} positions do not form a square grid")
    return side
