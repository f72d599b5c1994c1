"""Sampling of removed patches against loops over patches, and BEiT's algorithm in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from quick import quick_jit

from cv_jax import models
from cv_jax.models import masking

GRIDS = ((8, 8), (4, 6))
RNG = np.random.default_rng(0)


def masks_of(name, noise, grid, keep):
    """Return kept patches and masks [B, L] of a sampling."""

    @quick_jit
    def function(noise):
        return masking.select(masking.SAMPLINGS[name](noise, grid, keep), keep)

    return [np.asarray(x) for x in function(noise)]


@settings(deadline=None, max_examples=10)
@given(data=st.data(), batch=st.integers(1, 3), length=st.integers(2, 12))
def test_select(data, batch, length):
    keep = data.draw(st.integers(1, length - 1))
    noise = np.random.default_rng(length).random((batch, length)).astype(np.float32)
    kept, restore, mask = (np.asarray(x) for x in masking.select(noise, keep))
    for b in range(batch):
        order = sorted(range(length), key=lambda i: noise[b, i])
        assert kept[b].tolist() == order[:keep]
        for place, patch in enumerate(order):
            assert restore[b, patch] == place
            assert mask[b, patch] == (0 if place < keep else 1)


def test_random_masking_is_that_of_the_official_code():
    """The bits of the noise are the scores, so the smallest numbers are kept."""
    noise = RNG.random((2, 64)).astype(np.float32)
    assert masking.SAMPLINGS["random"](noise, (8, 8), 16) is noise


def beit(noise, grid, count):
    """Algorithm 1 of BEiT for one image, with the last block filled row by row."""
    key = jax.random.wrap_key_data(noise[:2].view(np.uint32), impl="threefry2x32")
    mask = np.zeros(grid, int)
    for i in range(64):
        missing = count - mask.sum()
        if not missing:
            return mask.reshape(-1)
        draws = np.asarray(jax.random.uniform(jax.random.fold_in(key, i), (4,)), np.float64)
        least = min(16, missing)
        area = least + draws[0] * (missing - least)
        ratio = np.exp(np.log(0.3) + draws[1] * (np.log(1 / 0.3) - np.log(0.3)))
        height = int(np.clip(np.round(np.sqrt(area * ratio)), 1, grid[0]))
        width = int(np.clip(np.round(np.sqrt(area / ratio)), 1, grid[1]))
        top = int(draws[2] * (grid[0] - height + 1))
        left = int(draws[3] * (grid[1] - width + 1))
        for row in range(top, top + height):
            for column in range(left, left + width):
                if mask.sum() < count:
                    mask[row, column] = 1
    raise AssertionError("64 blocks are too few")


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("ratio", [0.25, 0.5, 0.75])
def test_block(grid, ratio):
    length = grid[0] * grid[1]
    keep, noise = int(length * (1 - ratio)), RNG.random((4, length)).astype(np.float32)
    kept, _, found = masks_of("block", noise, grid, keep)
    for b in range(len(noise)):
        np.testing.assert_array_equal(found[b], beit(noise[b], grid, length - keep))
        visible = np.flatnonzero(found[b] == 0)
        assert kept[b].tolist() == sorted(visible, key=lambda i, b=b: noise[b, i])


def test_block_removes_exactly_the_requested_number():
    """At 90 %, where some masks are not full after the last block."""
    noise = RNG.random((500, 64)).astype(np.float32)
    _, _, found = masks_of("block", noise, (8, 8), 6)
    np.testing.assert_array_equal(found.sum(axis=1), 58)


@pytest.mark.parametrize("grid", GRIDS)
def test_grid(grid):
    noise = RNG.random((8, grid[0] * grid[1])).astype(np.float32)
    _, _, found = masks_of("grid", noise, grid, noise.shape[1] // 4)
    places = set()
    for numbers, mask in zip(noise, found.reshape(-1, *grid), strict=True):
        numbers, (rows, columns) = numbers.reshape(grid), np.nonzero(mask == 0)
        offset = np.unravel_index(numbers[:2, :2].argmin(), (2, 2))
        expected = [
            (i, j) for i in range(offset[0], grid[0], 2) for j in range(offset[1], grid[1], 2)
        ]
        assert list(zip(rows, columns, strict=True)) == expected
        places.add(offset)
    assert len(places) > 1


@pytest.mark.parametrize("name", masking.SAMPLINGS)
def test_an_image_has_its_mask_in_any_batch(name):
    noise = jnp.asarray(RNG.random((4, 64)), jnp.float32)
    whole = masks_of(name, noise, (8, 8), 16)[2]
    np.testing.assert_array_equal(masks_of(name, noise[2:3], (8, 8), 16)[2], whole[2:3])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(masking="blocks"), "unknown masking 'blocks'; allowed: random, block, grid"),
        (dict(masking="grid", mask_ratio=0.5), "got 32 of 8x8"),
        (dict(masking="grid", image_size=(32, 28)), "got 14 of 8x7"),
    ],
)
def test_mistakes(fields, message):
    model = models.create("mae_vit_b16", **{"image_size": 32, "patch_size": 4, **fields})
    with pytest.raises(ValueError, match=message):
        model.check()
