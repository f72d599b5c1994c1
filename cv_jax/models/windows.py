"""Windows of a feature map: cutting, shifting, masking, and positions relative inside them.

The parts of Swin that are index arithmetic (Liu et al., 2021, arXiv:2103.14030, section 3.2; Liu et
al., 2022, arXiv:2111.09883, section 3.3). Masks, indices and coordinates are NumPy: constants of
the compiled program.
"""

import jax
import jax.numpy as jnp
import numpy as np

from cv_jax.models.positions import resize_grid

Size = tuple[int, int]
WINDOW_RULES = ("shrink", "pad")


def padded(size: Size, multiple: Size) -> Size:
    """The next larger size that `multiple` divides."""
    return tuple(-(-s // m) * m for s, m in zip(size, multiple, strict=True))


def pad_to(x: jax.Array, size: Size) -> jax.Array:
    """[B, H, W, C] with zeros at the bottom and right up to `size`."""
    rows, columns = size[0] - x.shape[1], size[1] - x.shape[2]
    return jnp.pad(x, ((0, 0), (0, rows), (0, columns), (0, 0)))


def fit_window(size: Size, window: int, rule: str) -> tuple[Size, Size]:
    """The window that a map really gets, and the shift of its odd blocks.

    Args:
      size: of the map.
      window: side of the window asked for.
      rule: "shrink": an axis no longer than the window becomes the window, unshifted. "pad": the
        map is padded up to the window, and an axis that then holds one window is not shifted.
    """
    if rule == "shrink":
        fitted = tuple(min(s, window) for s in size)
        return fitted, tuple(0 if s <= window else window // 2 for s in size)
    return (window, window), tuple(0 if s <= window else window // 2 for s in size)


def partition(x: jax.Array, window: Size) -> jax.Array:
    """[B, H, W, C] → [B, windows, tokens, C], windows and tokens row by row; `window` divides."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // window[0], window[0], width // window[1], window[1], channels)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, -1, window[0] * window[1], channels)


def unpartition(windows: jax.Array, window: Size, size: Size) -> jax.Array:
    """[B, windows, tokens, C] → [B, *size, C]: the inverse of `partition`."""
    batch, channels = len(windows), windows.shape[-1]
    rows, columns = size[0] // window[0], size[1] // window[1]
    x = windows.reshape(batch, rows, columns, *window, channels)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, *size, channels)


def shift_mask(size: Size, window: Size, shift: Size) -> np.ndarray:
    """Which tokens of a window of the rolled map were neighbours before rolling.

    Rolling by `shift` brings rows and columns from the far edge next to the near one; a window that
    holds both may not mix them. Along each axis the rolled map falls into three regions: all
    windows but the last, and the last window's tokens before and after the seam.

    Args:
      size: of the map, a multiple of `window`.
      window: height and width of a window.
      shift: rows and columns by which the map was rolled; less than the window.

    Returns:
      bool [windows, tokens, tokens], True where a token may look at another.
    """

    def regions(length, window, shift):
        region = np.zeros(length, int)
        if shift:
            region[length - window :] = 1
            region[length - shift :] = 2
        return region

    rows, columns = (regions(*axis) for axis in zip(size, window, shift, strict=True))
    region = (3 * rows[:, None] + columns[None, :])[None, :, :, None]
    region = np.asarray(
        region.reshape(size[0] // window[0], window[0], size[1] // window[1], window[1]).transpose(
            0, 2, 1, 3
        )
    ).reshape(-1, window[0] * window[1])
    return region[:, :, None] == region[:, None, :]


def relative_index(window: Size) -> np.ndarray:
    """Row of the bias table for every pair of a window's tokens: int [tokens, tokens].

    (Δrow + height − 1)·(2·width − 1) + (Δcolumn + width − 1), the offsets from key to query.
    """
    row, column = (x.reshape(-1) for x in np.indices(window))
    rows = row[:, None] - row[None, :] + window[0] - 1
    columns = column[:, None] - column[None, :] + window[1] - 1
    return rows * (2 * window[1] - 1) + columns


def log_spaced_coordinates(window: Size, pretrained: Size = (0, 0)) -> np.ndarray:
    """Every offset inside a window on Swin v2's logarithmic scale.

    sign(x)·log2(1 + |x|)/log2(8) of the offset in units of an eighth of the largest one, so that
    the window's edge lies at about ±1 and offsets beyond a pre-training window are extrapolated
    only a little.

    Args:
      window: height and width of the window.
      pretrained: the window of the pre-training, whose edge is the unit; 0 for `window` itself.

    Returns:
      float32 [(2·height − 1)·(2·width − 1), 2], in the order of `relative_index`.
    """
    units = (max((p or w) - 1, 1) for w, p in zip(window, pretrained, strict=True))
    axes = (8 * np.arange(1 - w, w) / unit for w, unit in zip(window, units, strict=True))
    offsets = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)
    return (np.sign(offsets) * np.log2(1 + np.abs(offsets)) / 3).astype(np.float32)


def resize_bias_table(
    table: np.ndarray, old: Size, new: Size, method: str = "bicubic"
) -> np.ndarray:
    """A bias table [(2·h − 1)·(2·w − 1), heads] for another window.

    Args:
      table: the table of a window of size `old`.
      old: height and width of its window.
      new: height and width of the window wanted.
      method: "bicubic" as the official code, without antialiasing; or "geometric" as timm: old
        offsets are spread in a geometric progression over the new range, dense near zero, and
        interpolated linearly.

    Raises:
      ValueError: the table does not fit `old`, or the method is unknown.
    """
    if method not in ("bicubic", "geometric"):
        raise ValueError(f"unknown method {method!r}; allowed: bicubic, geometric")
    table = np.asarray(table)
    source = tuple(2 * side - 1 for side in old)
    target = tuple(2 * side - 1 for side in new)
    if len(table) != source[0] * source[1]:
        raise ValueError(f"bias table has {len(table)} rows, a {old[0]}x{old[1]} window another")
    if source == target:
        return table
    grid = table.reshape(*source, -1)
    if method == "bicubic":
        resized = resize_grid(grid, target, "bicubic")
    else:
        rows, columns = (_geometric_matrix(*axis) for axis in zip(source, target, strict=True))
        resized = np.einsum("ph,qw,hwn->pqn", rows, columns, grid.astype(np.float64))
    return resized.reshape(-1, table.shape[1]).astype(table.dtype)


def _geometric_matrix(source: int, target: int) -> np.ndarray:
    """[target, source]: linear interpolation between offsets 0, ±1, ±(1 + q), ±(1 + q + q²), …"""
    reach = target // 2
    low, high = 1.01, 1.5
    while high - low > 1e-6:  # the ratio at which the last of the old offsets meets the edge
        ratio = (low + high) / 2
        if (1 - ratio ** (source // 2)) / (1 - ratio) > reach:
            high = ratio
        else:
            low = ratio
    steps = np.cumsum(ratio ** np.arange(source // 2))
    offsets = np.concatenate([-steps[::-1], [0], steps])
    wanted = np.arange(-reach, reach + 1)
    return np.stack([np.interp(wanted, offsets, unit) for unit in np.eye(source)], axis=1)


def as_bias(mask: np.ndarray, blocked: float = -100.0) -> jax.Array:
    """A mask as what is added to the scores: 0 where True, `blocked` where not (Swin: −100)."""
    return jnp.asarray(np.where(mask, 0.0, blocked), jnp.float32)
