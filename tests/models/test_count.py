"""Multiply-adds of programs with a known count."""

import jax
import jax.numpy as jnp
from jax import lax

from cv_jax.models.count import count_multiply_adds


def shaped(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def test_products_and_their_batches():
    assert count_multiply_adds(jnp.matmul, shaped(3, 4), shaped(4, 5))[0] == 3 * 4 * 5
    assert count_multiply_adds(jnp.matmul, shaped(7, 3, 4), shaped(7, 4, 5))[0] == 7 * 3 * 4 * 5


def test_convolutions_with_stride_padding_and_groups():
    """Taps on padding count; the output of a group reads only the input channels of the group."""

    def conv(x, kernel):
        layout = ("NHWC", "HWIO", "NHWC")
        return lax.conv_general_dilated(
            x, kernel, (2, 2), ((1, 1), (1, 1)), dimension_numbers=layout, feature_group_count=2
        )

    count, shape = count_multiply_adds(conv, shaped(1, 8, 8, 6), shaped(3, 3, 3, 10))
    assert shape.shape == (1, 4, 4, 10)
    assert count == 4 * 4 * 10 * 3 * 3 * 3


def test_loops_branches_and_nested_calls():
    square = shaped(4, 4)

    def scanned(x):
        return lax.scan(lambda c, _: (c @ c, None), x, length=5)[0]

    def branched(x):
        return lax.cond(x[0, 0] > 0, lambda x: x @ x @ x, lambda x: x, x)

    assert count_multiply_adds(scanned, square)[0] == 5 * 4**3
    assert count_multiply_adds(branched, square)[0] == 2 * 4**3
    assert count_multiply_adds(jax.jit(jax.checkpoint(lambda x: x @ x)), square)[0] == 4**3
    assert count_multiply_adds(jnp.tanh, square)[0] == 0
