"""Windows, masks, offsets and bias tables against loops over rows and columns."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cv_jax.models.positions import resize_matrix
from cv_jax.models.windows import (
    as_bias,
    fit_window,
    log_spaced_coordinates,
    pad_to,
    padded,
    partition,
    relative_index,
    resize_bias_table,
    shift_mask,
    unpartition,
)

few = settings(deadline=None, max_examples=15)
side = st.integers(1, 5)


@few
@given(rows=st.integers(1, 3), columns=st.integers(1, 3), height=side, width=side)
def test_partition(rows, columns, height, width):
    x = np.arange(2 * rows * height * columns * width * 3).reshape(
        2, rows * height, columns * width, 3
    )
    windows = np.asarray(partition(x, (height, width)))
    for i in range(rows):
        for j in range(columns):
            for h in range(height):
                for w in range(width):
                    np.testing.assert_array_equal(
                        windows[:, i * columns + j, h * width + w],
                        x[:, i * height + h, j * width + w],
                    )
    np.testing.assert_array_equal(unpartition(windows, (height, width), x.shape[1:3]), x)


@few
@given(data=st.data())
def test_shift_mask(data):
    """Two tokens of a window attend to each other if, on each axis, the roll moved both or neither
    of them to the other edge."""
    window = data.draw(st.tuples(side, side))
    count = data.draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    shift = tuple(data.draw(st.integers(0, w - 1)) for w in window)
    size = tuple(w * n for w, n in zip(window, count, strict=True))
    # Position of each token before the roll.
    row, column = np.indices(size)
    came_round = [
        (axis + s >= length).astype(int)
        for axis, s, length in zip((row, column), shift, size, strict=True)
    ]
    mask = shift_mask(size, window, shift)
    assert mask.shape == (count[0] * count[1], window[0] * window[1], window[0] * window[1])
    for i in range(count[0]):
        for j in range(count[1]):
            places = [
                (i * window[0] + h, j * window[1] + w)
                for h in range(window[0])
                for w in range(window[1])
            ]
            for a, first in enumerate(places):
                for b, second in enumerate(places):
                    together = all(r[first] == r[second] for r in came_round)
                    assert mask[i * count[1] + j, a, b] == together


def test_mask_as_bias():
    np.testing.assert_array_equal(as_bias(np.array([True, False])), [0.0, -100.0])


@few
@given(height=side, width=side)
def test_relative_index(height, width):
    index = relative_index((height, width))
    assert index.shape == (height * width, height * width)
    for a in range(height * width):
        for b in range(height * width):
            rows = a // width - b // width + height - 1
            columns = a % width - b % width + width - 1
            assert index[a, b] == rows * (2 * width - 1) + columns


@few
@given(height=side, width=side, pretrained=st.sampled_from([(0, 0), (3, 3), (8, 5)]))
def test_log_spaced_coordinates(height, width, pretrained):
    table = log_spaced_coordinates((height, width), pretrained)
    row = 0
    for h in range(1 - height, height):
        for w in range(1 - width, width):
            for value, offset, side, before in (
                (table[row, 0], h, height, pretrained[0]),
                (table[row, 1], w, width, pretrained[1]),
            ):
                unit = max((before if before else side) - 1, 1)
                x = offset / unit * 8
                expected = math.copysign(math.log2(abs(x) + 1) / math.log2(8), x) if x else 0
                assert value == pytest.approx(expected, abs=1e-6)
            row += 1
    assert row == len(table)


def test_offsets_stand_in_the_order_of_the_index():
    """The row of the table for (query, key) is the offset from key to query."""
    window = (3, 4)
    table = log_spaced_coordinates(window)[relative_index(window)]
    for a in range(12):
        for b in range(12):
            offset = (a // 4 - b // 4, a % 4 - b % 4)
            np.testing.assert_array_equal(np.sign(table[a, b]), np.sign(offset))


@pytest.mark.parametrize(
    ("size", "window", "rule", "expected"),
    [
        ((56, 56), 7, "shrink", ((7, 7), (3, 3))),
        ((7, 7), 7, "shrink", ((7, 7), (0, 0))),
        ((5, 9), 7, "shrink", ((5, 7), (0, 3))),
        ((8, 8), 7, "shrink", ((7, 7), (3, 3))),
        ((7, 7), 7, "pad", ((7, 7), (0, 0))),
        ((5, 9), 7, "pad", ((7, 7), (0, 3))),
        ((4, 4), 8, "pad", ((8, 8), (0, 0))),
    ],
)
def test_fit_window(size, window, rule, expected):
    assert fit_window(size, window, rule) == expected


def test_padding_goes_to_the_bottom_and_right():
    assert padded((5, 8), (4, 4)) == (8, 8)
    x = np.asarray(pad_to(np.ones((1, 2, 3, 1)), (3, 5)))
    np.testing.assert_array_equal(x[0, ..., 0], [[1, 1, 1, 0, 0], [1, 1, 1, 0, 0], [0] * 5])


def test_resize_bias_table_bicubic():
    """The table is resampled like an image, without antialiasing."""
    table = np.random.default_rng(0).standard_normal((5 * 7, 3)).astype("f4")
    resized = resize_bias_table(table, (3, 4), (6, 2))
    rows, columns = resize_matrix(5, 11, "bicubic"), resize_matrix(7, 3, "bicubic")
    expected = np.einsum("ph,qw,hwn->pqn", rows, columns, table.reshape(5, 7, 3))
    np.testing.assert_allclose(resized, expected.reshape(33, 3), atol=1e-6)
    assert resize_bias_table(table, (3, 4), (3, 4)) is table


def test_geometric_table_meets_the_edge():
    """timm's progression: offset 0 and the last offset keep their values."""
    table = np.random.default_rng(0).standard_normal((13 * 13, 2)).astype("f4")
    resized = resize_bias_table(table, (7, 7), (12, 12), "geometric").reshape(23, 23, 2)
    old = table.reshape(13, 13, 2)
    np.testing.assert_allclose(resized[11, 11], old[6, 6], atol=1e-6)
    np.testing.assert_allclose(resized[::22, ::22], old[::12, ::12], atol=1e-4)
    np.testing.assert_allclose(resized[11, 12], old[6, 7], atol=1e-6)


def test_mistakes_are_one_line():
    with pytest.raises(ValueError, match="unknown method"):
        resize_bias_table(np.zeros((9, 1)), (2, 2), (3, 3), "nearest")
    with pytest.raises(ValueError, match="bias table has 9 rows"):
        resize_bias_table(np.zeros((9, 1)), (3, 3), (2, 2))
