"""Fixed positions and resampling, against loops over the formulas."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cv_jax.models.positions import (
    METHODS,
    resize_grid,
    resize_matrix,
    resize_patch_kernel,
    resize_positions,
    sincos_2d,
    sinusoids,
)

few = settings(deadline=None, max_examples=15)
sides = st.integers(1, 9)


@few
@given(length=sides, half=sides)
def test_sinusoids(length, half):
    dim = 2 * half
    table = sinusoids(length, dim)
    assert table.dtype == np.float32
    for position in range(length):
        for i in range(half):
            angle = position / 10000 ** (2 * i / dim)
            assert table[position, 2 * i] == pytest.approx(math.sin(angle), abs=1e-6)
            assert table[position, 2 * i + 1] == pytest.approx(math.cos(angle), abs=1e-6)


@few
@given(height=sides, width=sides, quarter=st.integers(1, 5))
def test_sincos_2d(height, width, quarter):
    dim = 4 * quarter
    table = sincos_2d(height, width, dim).reshape(height, width, dim)
    assert table.dtype == np.float32
    for row in range(height):
        for column in range(width):
            for start, index in ((0, column), (dim // 2, row)):
                for i in range(quarter):
                    angle = index / 10000 ** (i / quarter)
                    assert table[row, column, start + i] == pytest.approx(math.sin(angle), abs=1e-6)
                    assert table[row, column, start + quarter + i] == pytest.approx(
                        math.cos(angle), abs=1e-6
                    )


@pytest.mark.parametrize("make", [lambda: sinusoids(3, 5), lambda: sincos_2d(2, 2, 6)])
def test_width_that_does_not_split(make):
    with pytest.raises(ValueError, match="width"):
        make()


def cubic(x, a):
    """Keys (1981), equation 15, with the free parameter a."""
    x = abs(x)
    if x <= 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    if x < 2:
        return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a
    return 0.0


def resample(values, new, method):
    """Resample one axis, output by output, as in PyTorch's documentation and source."""
    old = len(values)
    scale = old / (new + 0.1 * (method == "bicubic_offset"))
    result = []
    for i in range(new):
        if method == "bilinear":
            center = min(max(scale * (i + 0.5) - 0.5, 0), old - 1)
            low = math.floor(center)
            share = center - low
            result.append((1 - share) * values[low] + share * values[min(low + 1, old - 1)])
        elif method == "bicubic_antialias":
            stretch = max(scale, 1.0)
            center = scale * (i + 0.5)
            low = max(int(center - 2 * stretch + 0.5), 0)
            high = min(int(center + 2 * stretch + 0.5), old)
            weights = [cubic((j - center + 0.5) / stretch, -0.5) for j in range(low, high)]
            total = sum(w * values[j] for w, j in zip(weights, range(low, high), strict=True))
            result.append(total / sum(weights))
        else:
            center = scale * (i + 0.5) - 0.5
            first = math.floor(center) - 1
            result.append(
                sum(
                    cubic(center - j, -0.75) * values[min(max(j, 0), old - 1)]
                    for j in range(first, first + 4)
                )
            )
    return np.array(result)


@few
@given(old=st.integers(1, 12), new=st.integers(1, 12), method=st.sampled_from(METHODS), seed=sides)
def test_resize_matrix(old, new, method, seed):
    values = np.random.default_rng(seed).standard_normal(old)
    expected = resample(values, new, method)
    np.testing.assert_allclose(resize_matrix(old, new, method) @ values, expected, atol=1e-12)


# interpolate(align_corners=False) of torch 2.13 on 0, 1, 4, 9 along one axis, by new length and
# method.
FROM_TORCH = {
    (6, "bicubic_antialias"): [-0.0658, 0.2941, 1.3611, 3.3611, 6.8235, 9.3289],
    (6, "bicubic"): [-0.0868, 0.2188, 1.4306, 3.1528, 6.7812, 9.4340],
    (3, "bicubic_antialias"): [0.0755, 2.3592, 7.9359],
    (3, "bicubic"): [0.0914, 2.1250, 8.3345],
}


@pytest.mark.parametrize(("new", "method"), FROM_TORCH)
def test_resize_matrix_is_torch(new, method):
    resized = resize_matrix(4, new, method) @ np.array([0.0, 1.0, 4.0, 9.0])
    np.testing.assert_allclose(resized, FROM_TORCH[new, method], atol=6e-5)


def test_an_unknown_method():
    with pytest.raises(ValueError, match="unknown method 'cubic'; allowed: bicubic_antialias, bi"):
        resize_matrix(4, 6, "cubic")


def test_resize_grid_keeps_dtype_and_treats_the_axes_apart():
    grid = np.random.default_rng(0).standard_normal((5, 3, 2)).astype(np.float32)
    resized = resize_grid(grid, (4, 7))
    assert resized.shape == (4, 7, 2)
    assert resized.dtype == np.float32
    rows = np.stack([resample(grid[:, j, 1], 4, "bicubic_antialias") for j in range(3)], axis=1)
    expected = np.stack([resample(row, 7, "bicubic_antialias") for row in rows])
    np.testing.assert_allclose(resized[..., 1], expected, atol=1e-6)
    assert resize_grid(grid, (5, 3)) is grid


def test_resize_positions_keeps_the_prefix():
    table = np.random.default_rng(0).standard_normal((1, 2 + 6, 4)).astype(np.float32)
    resized = resize_positions(table, (2, 3), (4, 5), prefix=2)
    assert resized.shape == (1, 2 + 20, 4)
    np.testing.assert_array_equal(resized[:, :2], table[:, :2])
    expected = resize_grid(table[0, 2:].reshape(2, 3, 4), (4, 5))
    np.testing.assert_array_equal(resized[0, 2:].reshape(4, 5, 4), expected)
    with pytest.raises(ValueError, match="8 positions"):
        resize_positions(table, (2, 3), (4, 5), prefix=1)


def test_larger_patches_give_the_same_tokens():
    """FlexiViT, section 3.4: new kernel and resized patch give the token of the old ones."""
    rng = np.random.default_rng(0)
    kernel, patch = rng.standard_normal((4, 4, 3, 5)), rng.standard_normal((4, 4, 3))
    grown = resize_patch_kernel(kernel, (7, 6))
    assert grown.shape == (7, 6, 3, 5)
    np.testing.assert_allclose(
        np.einsum("hwc,hwcd->d", resize_grid(patch, (7, 6)), grown),
        np.einsum("hwc,hwcd->d", patch, kernel),
        rtol=1e-9,
    )
