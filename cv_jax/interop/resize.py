"""Positions, bias tables and patches fitted to another image, window or patch size.

What was learnt for one grid (a square one, in all published weights) is resampled for the target's:
the positions of ViT by the method that the source's own loader has, patch kernels by FlexiViT's
pseudo-inverse of that method; Swin's bias tables bicubically as the official code does, or as timm
does for its weights.
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


# By timm's loaders: of its own weights, and of Google's files; and by MAE's fine-tuning.
METHODS = {"mae": "bicubic", "big_vision": "bilinear"}


def may_be_resized(path: str) -> bool:
    """Whether what stands at `path` depends on an image, window or patch size."""
    return path in (PATCHES, POSITIONS) or TABLE.fullmatch(path) is not None


def fits_resized(path: str, got: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    """Whether such an array of shape `got` can be resampled to the shape that is wanted."""
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
    """Resamples what has another size than the model's.

    Args:
      arrays: by path.
      model: the module that they shall fit.
      image_size: height and width of its images.
      source: whose way of resampling to follow.
      trained_size: height and width of the images that the arrays were learnt on; by default
        square ones, whatever their side.

    Returns:
      `(arrays, notes)`, one sentence for each kind of array that was resampled.

    Raises:
      InputError: positions or a table that belong to no square grid.
    """
    arrays, notes = dict(arrays), []
    method = METHODS.get(source, "bicubic_antialias")
    kernel = arrays.get(PATCHES)
    patch = getattr(model, "patch_size", None)
    if kernel is not None and patch is not None and kernel.shape[:2] != (patch, patch):
        arrays[PATCHES] = resize_patch_kernel(kernel, (patch, patch), method)
        notes.append(f"patches of {kernel.shape[0]}x{kernel.shape[1]} pixels made {patch}x{patch}")
    if POSITIONS in arrays:
        table, prefix, new = arrays[POSITIONS], model.pos_embed_prefix_tokens(), model.check()
        if table.shape[1] != prefix + new[0] * new[1]:
            old = _trained_grid(table.shape[1], prefix, kernel, trained_size)
            arrays[POSITIONS] = resize_positions(table, old, new, prefix, method)
            notes.append(f"positions of {old[0]}x{old[1]} patches made {new[0]}x{new[1]}")
    changed = {}
    for path, table in arrays.items():
        match = TABLE.fullmatch(path)
        if not match:
            continue
        new = stage_windows(model, image_size)[int(match[1])]
        if len(table) != (2 * new[0] - 1) * (2 * new[1] - 1):
            old = ((_square(path, len(table)) + 1) // 2,) * 2
            way = "geometric" if source == "timm" else "bicubic"
            arrays[path] = resize_bias_table(table, old, new, way)
            changed[old, new] = f"bias tables of {old[0]}x{old[1]} windows made {new[0]}x{new[1]}"
    return arrays, [*notes, *changed.values()]


def _trained_grid(positions, prefix, kernel, trained_size) -> tuple[int, int]:
    """Rows and columns of patches that the positions belong to."""
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
            f"{error}; all {positions} are one: for positions of patches alone, as big_vision has "
            f"them beside a class token, set the field pos_embed_prefix=False"
        ) from None


def _square(path: str, count: int) -> int:
    side = math.isqrt(max(count, 0))
    if side * side != count or not side:
        raise InputError(f"{path} holds {count} places, which are no square grid to resample")
    return side
