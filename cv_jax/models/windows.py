"""Windows of a feature map: partition, shift, masks, and relative positions.

Index arithmetic of Swin (Liu et al., 2021, arXiv:2103.14030, section 3.2; Liu et al., 2022,
arXiv:2111.09883, section 3.3). Masks, indices and coordinates are NumPy arrays, constants of the
compiled program.
"""

import jax
import jax.numpy as jnp
import numpy as np

from cv_jax.models import checks
from cv_jax.models.positions import resize_grid

Size = tuple[int, int]
WINDOW_RULES = ("shrink", "pad")


def padded(size: Size, multiple: Size) -> Size:
    """Return the size, rounded up to a multiple of `multiple`."""
    return tuple(-(-s // m) * m for s, m in zip(size, multiple, strict=True))


def pad_to(x: jax.Array, size: Size) -> jax.Array:
    """Pad [B, H, W, C] with zeros at the bottom and right to `size`."""
    rows, columns = size[0] - x.shape[1], size[1] - x.shape[2]
    return jnp.pad(x, ((0, 0), (0, rows), (0, columns), (0, 0)))


def fit_window(size: Size, window: int, rule: str) -> tuple[Size, Size]:
    """Return the window of a map, and the shift of its odd blocks.

    Args:
      size: height and width of the map.
      window: side of the window in the model.
      rule: "shrink": on an axis no longer than the window, the window shrinks to the axis. "pad":
        the map is padded. In both, such an axis has no shift.
    """
    if rule == "shrink":
        fitted = tuple(min(s, window) for s in size)
        return fitted, tuple(0 if s <= window else window // 2 for s in size)
    return (window, window), tuple(0 if s <= window else window // 2 for s in size)


def partition(x: jax.Array, window: Size) -> jax.Array:
    """[B, H, W, C] → [B, windows, tokens, C], row by row; `window` must divide the map."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // window[0], window[0], width // window[1], window[1], channels)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, -1, window[0] * window[1], channels)


def unpartition(windows: jax.Array, window: Size, size: Size) -> jax.Array:
    """[B, windows, tokens, C] → [B, *size, C]: the inverse of `partition`."""
    batch, channels = len(windows), windows.shape[-1]
    rows, columns = size[0] // window[0], size[1] // window[1]
    x = windows.reshape(batch, rows, columns, *window, channels)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, *size, channels)


def arrange(x: jax.Array, window: Size, shift: Size, rule: str) -> jax.Array:
    """Return the windows [B, windows, tokens, C] of a map [B, H, W, C], rolled and padded.

    Args:
      x: the map.
      window: height and width of a window.
      shift: rows and columns of the roll.
      rule: "shrink": roll the map, then pad (timm). "pad": pad, then roll (torchvision).
    """
    whole, roll = padded(x.shape[1:3], window), (-shift[0], -shift[1])
    if rule == "shrink":
        x = pad_to(jnp.roll(x, roll, axis=(1, 2)), whole)
    else:
        x = jnp.roll(pad_to(x, whole), roll, axis=(1, 2))
    return partition(x, window)


def restore(windows: jax.Array, window: Size, shift: Size, rule: str, size: Size) -> jax.Array:
    """Return the map [B, *size, C] of windows from `arrange`: its inverse."""
    x = unpartition(windows, window, padded(size, window))
    if rule == "shrink":
        return jnp.roll(x[:, : size[0], : size[1]], shift, axis=(1, 2))
    return jnp.roll(x, shift, axis=(1, 2))[:, : size[0], : size[1]]


def shift_mask(size: Size, window: Size, shift: Size) -> np.ndarray:
    """Return the attention mask of windows of a rolled map.

    Rolling by `shift` moves rows and columns from one edge of the map next to the other edge.
    Tokens of both edges in one window must not attend to each other. Each axis of the rolled map
    has three regions: all windows but the last, and the tokens of the last window before and after
    the seam.

    Args:
      size: height and width of the map, multiples of `window`.
      window: height and width of a window.
      shift: rows and columns of the roll; less than the window.

    Returns:
      bool [windows, tokens, tokens], True where a token attends to another token.
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
    """Return the row of the bias table for every pair of tokens: int [tokens, tokens].

    The row is (Δrow + height − 1)·(2·width − 1) + (Δcolumn + width − 1), for the offset from key to
    query.
    """
    row, column = (x.reshape(-1) for x in np.indices(window))
    rows = row[:, None] - row[None, :] + window[0] - 1
    columns = column[:, None] - column[None, :] + window[1] - 1
    return rows * (2 * window[1] - 1) + columns


def log_spaced_coordinates(window: Size, pretrained: Size = (0, 0)) -> np.ndarray:
    """Return every offset inside a window on the logarithmic scale of Swin v2.

    The value is sign(x)·log2(1 + |x|)/log2(8), where x is 8 times the offset over the largest
    offset in pre-training. The edge of the pre-training window is at about ±1, and larger windows
    need little extrapolation.

    Args:
      window: height and width of the window.
      pretrained: height and width of the window in pre-training; 0 for `window` itself.

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
    """Resample a bias table [(2·h − 1)·(2·w − 1), heads] to another window.

    Args:
      table: the bias table.
      old: height and width of its window.
      new: height and width of the new window.
      method: "bicubic" as in the official code, without antialiasing; or "geometric" as in timm:
        linear interpolation between the old offsets, which are placed over the new range in a
        geometric progression, densest near zero.

    Raises:
      ValueError: the table does not fit `old`, or the method is unknown.
    """
    checks.one_of("method", method, ("bicubic", "geometric"))
    table = np.asarray(table)
    source = tuple(2 * side - 1 for side in old)
    target = tuple(2 * side - 1 for side in new)
    if len(table) != source[0] * source[1]:
        rows = source[0] * source[1]
        raise ValueError(
            f"bias table has {len(table)} rows, a window of {old[0]}x{old[1]} needs {rows}"
        )
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
    """Return the matrix [target, source] of linear interpolation between the offsets 0, ±1,
    ±(1 + q), ±(1 + q + q²), …"""
    reach = target // 2
    low, high = 1.01, 1.5
    while high - low > 1e-6:  # bisection: the largest old offset must be at the edge
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
    """Return the bias of a mask for attention scores: 0 where True, else `blocked`."""
    return jnp.asarray(np.where(mask, 0.0, blocked), jnp.float32)
