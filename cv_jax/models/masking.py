"""Which patches a masked autoencoder removes.

He et al. (2022), section 4.1, "Mask sampling strategy", table 1f and figure 6. A sampling is a pure
function of one random number per patch, so the noise that a model gets determines its masks. Its
shapes are static, and the number of kept patches is the same for every example.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

Scores = jax.Array  # [B, L]; the patches with the smallest scores are kept

# Bao et al. (2022), arXiv:2106.08254, algorithm 1: patches of a block, and bounds of its ratio of
# height to width.
SMALLEST_BLOCK, FLATTEST = 16, 0.3
BLOCKS = 64  # blocks that are drawn


def random_scores(noise: jax.Array, grid: tuple[int, int], keep: int) -> Scores:
    """Return the noise itself: each set of patches is equally likely, as in the official code."""
    return noise


def block_scores(noise: jax.Array, grid: tuple[int, int], keep: int) -> Scores:
    """Remove rectangles of patches (algorithm 1 of BEiT, Bao et al., 2022).

    A block has an area between 16 patches and the number of patches that are still to be removed,
    and a ratio of height to width between 0.3 and 1/0.3. Blocks may overlap. As in BEiT's code the
    ratio is log-uniform, and sides are rounded. Here, blocks are cut to the grid, and the last one
    is filled row by row until exactly the requested number of patches is removed; in the paper it
    may exceed this number, in the code it may fall short. If 64 blocks are too few, which happens
    from a ratio of about 0.9 on, the noise chooses the other removed patches.

    Args:
      noise: float [B, L]; the bits of its first two numbers are the key of the draws.
      grid: patches along height and width.
      keep: number of kept patches.
    """
    removed = jax.vmap(lambda x: _blocks(x, grid, noise.shape[1] - keep))(noise)
    return _removed_last(noise, removed)


def grid_scores(noise: jax.Array, grid: tuple[int, int], keep: int) -> Scores:
    """Keep the same one of every 2×2 patches; which of the four is drawn for each image.

    Args:
      noise: float [B, L]; the smallest number of the first 2×2 patches is at the kept place.
      grid: patches along height and width, both even.
      keep: number of kept patches, a quarter of all.
    """
    rows, columns = grid
    first = noise.reshape(-1, rows, columns)[:, :2, :2].reshape(-1, 4)
    place = jnp.argmin(first, axis=1)[:, None, None]
    row, column = jnp.indices(grid)
    kept = (row % 2 == place // 2) & (column % 2 == place % 2)
    return _removed_last(noise, ~kept.reshape(len(noise), -1))


# Value of the field `masking` → `(noise [B, L], grid, keep) → scores [B, L]`.
SAMPLINGS: dict[str, Callable[[jax.Array, tuple[int, int], int], Scores]] = {
    "random": random_scores,
    "block": block_scores,
    "grid": grid_scores,
}


def select(scores: Scores, keep: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Select the kept patches.

    Args:
      scores: [B, L]; the `keep` patches with the smallest values are kept.
      keep: number of kept patches.

    Returns:
      `(kept int [B, keep], restore int [B, L], mask float32 [B, L])`: indices of the kept patches
      in the order of the scores, index of each patch in this order, and 1 for removed patches.
    """
    order = jnp.argsort(scores, axis=1)
    restore = jnp.argsort(order, axis=1)
    return order[:, :keep], restore, (restore >= keep).astype(jnp.float32)


def check(masking: str, grid: tuple[int, int], keep: int) -> None:
    """Check that a sampling fits a grid of patches.

    Raises:
      ValueError: "grid" needs even sides and a quarter of the patches.
    """
    rows, columns = grid
    if masking == "grid" and (rows % 2 or columns % 2 or 4 * keep != rows * columns):
        raise ValueError(
            f"masking 'grid' keeps one of every 2x2 patches; it needs mask_ratio 0.75 and even "
            f"numbers of patches, got {keep} of {rows}x{columns}"
        )


def _removed_last(noise: jax.Array, removed: jax.Array) -> Scores:
    """Order patches by noise, those of the mask [B, L] after all others."""
    rank = jnp.argsort(jnp.argsort(noise, axis=1), axis=1)
    return rank + noise.shape[1] * removed


def _blocks(noise: jax.Array, grid: tuple[int, int], count: int) -> jax.Array:
    """Return the mask of one image: bool [L], `count` of them True."""
    (rows, columns), (row, column) = grid, jnp.indices(grid)
    bits = jax.lax.bitcast_convert_type(noise[:2].astype(jnp.float32), jnp.uint32)
    key = jax.random.wrap_key_data(bits, impl="threefry2x32")
    draws = jax.vmap(lambda i: jax.random.uniform(jax.random.fold_in(key, i), (4,)))
    low = jnp.log(FLATTEST)

    def add(removed, draw):
        missing = count - removed.sum()
        smallest = jnp.minimum(SMALLEST_BLOCK, missing)
        area = smallest + draw[0] * (missing - smallest)
        ratio = jnp.exp(low - 2 * low * draw[1])
        height = jnp.clip(jnp.round(jnp.sqrt(area * ratio)), 1, rows)
        width = jnp.clip(jnp.round(jnp.sqrt(area / ratio)), 1, columns)
        top = jnp.floor(draw[2] * (rows - height + 1))
        left = jnp.floor(draw[3] * (columns - width + 1))
        block = (row >= top) & (row < top + height) & (column >= left) & (column < left + width)
        new = block.reshape(-1) & ~removed
        return removed | (new & (jnp.cumsum(new) <= missing)), None

    # A fixed number of blocks: a loop until all masks are full needs a message between the devices
    # for each block.
    removed, _ = jax.lax.scan(add, jnp.zeros(rows * columns, bool), draws(jnp.arange(BLOCKS)))
    return removed
