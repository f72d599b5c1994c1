"""Max pooling, with a gradient that is fast on a CPU.

XLA computes the library's gradient with a scatter, window after window, which is slow on a CPU
(`docs/performance.md`). Here the forward pass notes the place of the maximum in every window, and
each position of the image adds the gradients of the windows whose maximum it is. The gradients have
the same bits: of equal values the first one counts, row by row, and sums are in the order of the
windows.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np


def max_pool(x: jax.Array, size: int, stride: int, padding: int = 0) -> jax.Array:
    """Return the maximum of every window.

    Args:
      x: [B, H, W, C].
      size: side of the windows, at most 11.
      stride: rows and columns between two windows.
      padding: rows and columns of −∞ on every side, less than `size`.

    Returns:
      [B, h, w, C] with h = (H + 2·padding − size) // stride + 1, and w likewise.
    """
    # Accelerators have kernels for the library's gradient; nothing else was measured there.
    if jax.default_backend() != "cpu":
        return _maximum(x, size, stride, padding)
    return _pool(x, size, stride, padding, x.shape[1:3])


def _maximum(x, size, stride, padding, sides=None):
    return nn.max_pool(x, (size, size), (stride, stride), ((padding, padding),) * 2)


_pool = jax.custom_vjp(_maximum, nondiff_argnums=(1, 2, 3, 4))


def _forward(x, size, stride, padding, sides):
    """Return the maxima, and what the gradient needs: the place of each in its window, as int8."""
    batch, *_, channels = x.shape
    rows, columns = ((side + 2 * padding - size) // stride + 1 for side in sides)
    around = (0, 0), (padding, padding), (padding, padding), (0, 0)
    wide = jnp.pad(x, around, constant_values=-np.inf) if padding else x
    taps = []
    for a, b in np.ndindex(size, size):
        ends = batch, a + (rows - 1) * stride + 1, b + (columns - 1) * stride + 1, channels
        taps.append(jax.lax.slice(wide, (0, a, b, 0), ends, (1, stride, stride, 1)))
    maxima, best, place = taps[0], taps[0], jnp.zeros(taps[0].shape, jnp.int8)
    for number, tap in enumerate(taps[1:], 1):
        maxima = jnp.maximum(maxima, tap)  # in one loop with the places, and NaN if a value is
        stays = best >= tap  # compared as in the library's gradient, also with NaN
        best, place = jnp.where(stays, best, tap), jnp.where(stays, place, jnp.int8(number))
    return maxima, place


def _backward(size, stride, padding, sides, place, gradient):
    """Return the gradient of the image [B, H, W, C] from that of the maxima [B, h, w, C].

    Row u of the padded image is row `phase` = u % stride of the group `group` = u // stride. It is
    row `phase + stride·back` of the window `group − back`, for every `back` up to
    (size − 1) // stride, if that is less than `size`.
    """
    groups = [-(-(side + 2 * padding) // stride) for side in sides]
    backs = (size - 1) // stride
    edges = [(backs, g - n) for g, n in zip(groups, gradient.shape[1:3], strict=True)]
    around = [(0, 0), *edges, (0, 0)]
    gradient, place = jnp.pad(gradient, around), jnp.pad(place, around, constant_values=-1)
    offsets = np.arange(stride)
    total = 0
    for i, j in ((i, j) for i in range(backs, -1, -1) for j in range(backs, -1, -1)):
        rows, columns = offsets + stride * i, offsets + stride * j
        number = size * rows[:, None] + columns
        number[(rows[:, None] >= size) | (columns >= size)] = -2
        window = slice(None), slice(backs - i, backs - i + groups[0]), None
        window += slice(backs - j, backs - j + groups[1]), None
        is_maximum = place[window] == number.astype(np.int8)[None, None, :, None, :, None]
        total = total + jnp.where(is_maximum, gradient[window], 0)
    total = total.reshape(len(total), groups[0] * stride, groups[1] * stride, -1)
    return (total[:, padding : padding + sides[0], padding : padding + sides[1]],)


_pool.defvjp(_forward, _backward)
