"""Position embeddings: fixed sine-cosine tables, and learned tables resampled to another size.

Resampling follows PyTorch's `interpolate(align_corners=False)`, which the authors of published
weights use to change the image size. Methods:

  bicubic_antialias  cubic filter with a = −0.5, widened when the grid shrinks and normalised over
                     the taps inside the grid (as in Pillow)
  bicubic            cubic filter with a = −0.75; indices outside the grid repeat the edge
  bicubic_offset     bicubic; the new grid is longer by 0.1, as in DINOv2 (Oquab et al., 2023)
  bilinear           linear between the two nearest values, with the same edge

All functions are NumPy on parameters, outside jitted programs.
"""

import numpy as np

from cv_jax.models import checks

METHODS = ("bicubic_antialias", "bicubic", "bicubic_offset", "bilinear")


def sinusoids(length: int, dim: int) -> np.ndarray:
    """Return sinusoidal positions [length, dim], float32 (Vaswani et al., 2017, section 3.5).

    Channel 2i is sin(position / 10000^(2i/dim)), channel 2i + 1 its cosine.

    Raises:
      ValueError: `dim` is odd.
    """
    if dim % 2:
        raise ValueError(f"sinusoidal positions need an even width, got {dim}")
    angle = np.arange(length)[:, None] * 10000.0 ** (-np.arange(0, dim, 2) / dim)
    return np.stack([np.sin(angle), np.cos(angle)], axis=-1).reshape(length, dim).astype(np.float32)


def sincos_2d(height: int, width: int, dim: int) -> np.ndarray:
    """Return fixed 2-D sine-cosine positions [height·width, dim], float32, row-major.

    As in MAE (He et al., 2021): the first half of the channels encodes the column, the second half
    the row, each as [sin, cos] of the index times 10000^(−i/(dim/4)).

    Raises:
      ValueError: `dim` is not a multiple of 4.
    """
    if dim % 4:
        raise ValueError(f"sin-cos positions need a width that is a multiple of 4, got {dim}")
    omega = 10000.0 ** (-np.arange(dim // 4) / (dim / 4))
    row, column = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")

    def encode(index):
        angle = index.reshape(-1, 1) * omega
        return np.concatenate([np.sin(angle), np.cos(angle)], axis=1)

    return np.concatenate([encode(column), encode(row)], axis=1).astype(np.float32)


def _cubic(x: np.ndarray, a: float) -> np.ndarray:
    """Keys' cubic convolution filter; zero beyond a distance of 2."""
    x = np.abs(x)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


def _linear(x: np.ndarray) -> np.ndarray:
    """The triangle filter; zero beyond a distance of 1."""
    return np.maximum(0.0, 1 - np.abs(x))


def resize_matrix(old: int, new: int, method: str = "bicubic_antialias") -> np.ndarray:
    """Return the matrix [new, old], float64, that resamples one axis as PyTorch does.

    Raises:
      ValueError: the method is unknown.
    """
    checks.one_of("method", method, METHODS)
    # DINOv2 passes the factor (new + 0.1) / old to PyTorch, which keeps it for the coordinates.
    scale = old / (new + 0.1 if method == "bicubic_offset" else new)
    center = (np.arange(new) + 0.5) * scale
    if method == "bicubic_antialias":
        stretch = max(scale, 1.0)
        source = np.arange(old)
        first = np.maximum(np.floor(center - 2 * stretch + 0.5), 0)
        last = np.minimum(np.floor(center + 2 * stretch + 0.5), old)
        weights = _cubic((source - center[:, None] + 0.5) / stretch, a=-0.5)
        weights *= (source >= first[:, None]) & (source < last[:, None])
        return weights / weights.sum(axis=1, keepdims=True)
    center -= 0.5
    matrix = np.zeros((new, old))
    for tap in range(-1, 3):
        index = np.floor(center) + tap
        weight = (
            _linear(center - index) if method == "bilinear" else _cubic(center - index, a=-0.75)
        )
        place = np.clip(index, 0, old - 1).astype(int)
        np.add.at(matrix, (np.arange(new), place), weight)
    return matrix


def resize_grid(
    grid: np.ndarray, size: tuple[int, int], method: str = "bicubic_antialias"
) -> np.ndarray:
    """Resample [height, width, ...] to [*size, ...], in the dtype of `grid`."""
    if grid.shape[:2] == tuple(size):
        return grid
    rows = resize_matrix(grid.shape[0], size[0], method)
    columns = resize_matrix(grid.shape[1], size[1], method)
    resized = np.einsum("ph,qw,hw...->pq...", rows, columns, np.asarray(grid, np.float64))
    return resized.astype(grid.dtype)


def resize_positions(
    pos_embed: np.ndarray,
    old: tuple[int, int],
    new: tuple[int, int],
    prefix: int = 1,
    method: str = "bicubic_antialias",
) -> np.ndarray:
    """Resample learned positions to another patch grid.

    Args:
      pos_embed: [1, prefix + rows·columns, D].
      old: rows and columns of its grid.
      new: rows and columns of the result.
      prefix: number of leading positions without a patch (class token, registers); not changed.
      method: one of `METHODS`; the default is timm's, MAE's fine-tuning uses "bicubic".

    Raises:
      ValueError: the length of the table is not `prefix` + rows·columns of `old`.
    """
    tokens = pos_embed.shape[1]
    if tokens != prefix + old[0] * old[1]:
        raise ValueError(f"pos_embed has {tokens} positions, expected {prefix} + {old[0]}x{old[1]}")
    pos_embed = np.asarray(pos_embed)
    grid = pos_embed[0, prefix:].reshape(*old, -1)
    grid = resize_grid(grid, new, method).reshape(1, new[0] * new[1], -1)
    return np.concatenate([pos_embed[:, :prefix], grid], axis=1)


def resize_patch_kernel(
    kernel: np.ndarray, size: tuple[int, int], method: str = "bicubic_antialias"
) -> np.ndarray:
    """Fit the kernel of a patch embedding to another patch size with FlexiViT's pseudo-inverse.

    Beyer et al., "FlexiViT", CVPR 2023, arXiv:2212.08013, section 3.4: the result is the kernel
    whose tokens of resized patches are closest to the old kernel's tokens of the original patches.
    For larger patches the tokens are equal.

    Args:
      kernel: [height, width, channels, D].
      size: height and width of the new patch.
      method: resampling method of the patches, one of `METHODS`.
    """
    kernel = np.asarray(kernel)
    old = kernel.shape[:2]
    if old == tuple(size):
        return kernel
    # `resize` maps flattened patches to the new size; tokens are equal if resizeᵀ·new = old.
    resize = np.kron(*(resize_matrix(o, n, method) for o, n in zip(old, size, strict=True)))
    flat = kernel.reshape(old[0] * old[1], -1).astype(np.float64)
    return (np.linalg.pinv(resize.T) @ flat).reshape(*size, *kernel.shape[2:]).astype(kernel.dtype)
