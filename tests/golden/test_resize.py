"""Positions, patch kernels and bias tables at other sizes, as resampled by the source's library.

See make_resize.py for `resize.npz`.
"""

import pathlib

import numpy as np
import pytest
import recipe

from cv_jax.errors import InputError
from cv_jax.interop import resize, saved
from cv_jax.interop.resize import PATCHES, POSITIONS, Trained
from cv_jax.interop.target import Target, unflatten

GOLDEN = dict(np.load(pathlib.Path(__file__).parent / "resize.npz"))
TABLE = "params/layers_0/blocks_0/attn/relative_position_bias_table"


def size(text: str) -> tuple[int, int]:
    height, width = map(int, text.split("x"))
    return height, width


def vit(grid: tuple[int, int], prefix: int, patch: int = 4) -> Trained:
    """A ViT with this grid and as many tokens before the patches."""
    fields = dict(pool="mean", class_token=prefix > 0, registers=max(prefix - 1, 0), width=2)
    fields.update(num_heads=1, patch_size=patch)
    return Trained.of("vit_ti16", (grid[0] * patch, grid[1] * patch), fields)


def swin(window: tuple[int, int]) -> Trained:
    """A Swin whose first stage has this window, because the map is as large."""
    fields = dict(depths=(1,), num_heads=(1,), width=4, window_size=max(window))
    return Trained.of("swin_t", (window[0] * 4, window[1] * 4), fields)


@pytest.mark.parametrize("name", [name for name in GOLDEN if name.startswith("positions")])
def test_positions(name):
    """Every pair of grids, square or not, also with equal numbers of patches."""
    _, source, old, new, prefix = name.split()
    old, new, prefix = size(old), size(new), int(prefix)
    table = recipe.draw(name, (1, prefix + old[0] * old[1], 2))
    target = vit(new, prefix)
    arrays, notes = resize.resize(
        {POSITIONS: table}, target.model, target.image_size, source, vit(old, prefix)
    )
    np.testing.assert_allclose(arrays[POSITIONS], GOLDEN[name], atol=1e-5)
    assert notes == [
        f"positions resized from {old[0]}x{old[1]} to {new[0]}x{new[1]} patches",
    ]


@pytest.mark.parametrize("name", [name for name in GOLDEN if name.startswith("patches")])
def test_patches(name):
    _, source, old, new, _ = name.split()
    kernel = recipe.draw(name, (2, 3, *size(old))).transpose(2, 3, 1, 0)
    target = vit((2, 2), 0, patch=size(new)[0])
    arrays, _ = resize.resize({PATCHES: kernel}, target.model, target.image_size, source)
    np.testing.assert_allclose(arrays[PATCHES].transpose(3, 2, 0, 1), GOLDEN[name], atol=2e-5)


@pytest.mark.parametrize("name", [name for name in GOLDEN if name.startswith("windows")])
def test_windows(name):
    _, source, old, new, _ = name.split()
    old, new = size(old), size(new)
    table = recipe.draw(name, ((2 * old[0] - 1) * (2 * old[1] - 1), 2))
    target = swin(new)
    arrays, notes = resize.resize(
        {TABLE: table}, target.model, target.image_size, source, swin(old)
    )
    np.testing.assert_allclose(arrays[TABLE], GOLDEN[name], atol=2e-5)
    assert notes == [f"bias tables resized from {old[0]}x{old[1]} to {new[0]}x{new[1]} windows"]


def test_an_equal_grid_keeps_the_bits():
    table = recipe.draw("table", (1, 1 + 64, 2))
    for grid in ((4, 16), (8, 8)):
        facts = vit(grid, 1)
        arrays, notes = resize.resize({POSITIONS: table}, facts.model, facts.image_size, "", facts)
        assert arrays[POSITIONS] is table
        assert not notes


def test_positions_that_do_not_fit_the_facts_are_refused():
    table = recipe.draw("table", (1, 1 + 64, 2))
    target = vit((4, 8), 1)
    with pytest.raises(InputError) as error:
        resize.resize({POSITIONS: table}, target.model, target.image_size, "timm", vit((4, 12), 1))
    assert str(error.value) == (
        "params/pos_embed has 65 positions; images of 16x48 with patches of 4x4 need 1 + 4x12"
    )
    with pytest.raises(InputError, match="windows of 2x7 on images of 8x28 need 39"):
        resize.resize({TABLE: table[0]}, swin((7, 7)).model, (28, 28), "timm", swin((2, 7)))


def test_without_facts_a_grid_is_square_or_the_models_own():
    model = vit((4, 16), 1).model
    square, own = recipe.draw("a", (1, 1 + 9, 2)), recipe.draw("b", (1, 1 + 6, 2))
    arrays, _ = resize.resize({POSITIONS: square}, model, (16, 64))
    assert arrays[POSITIONS].shape == (1, 65, 2)
    wide = vit((2, 3), 1)
    arrays, notes = resize.resize({POSITIONS: own}, wide.model, wide.image_size)
    assert arrays[POSITIONS] is own
    assert not notes
    with pytest.raises(InputError, match="6 positions do not form a square grid; state the size"):
        resize.resize({POSITIONS: own}, model, (16, 64))
    both = recipe.draw("c", (1, 1 + 64, 2))
    with pytest.raises(InputError) as error:
        resize.resize({POSITIONS: both}, model, (16, 64))
    assert str(error.value) == (
        "params/pos_embed: 64 positions form a grid of 8x8 or 4x16; state the size of the training "
        "images: --trained-size HEIGHTxWIDTH"
    )
    with pytest.raises(InputError, match="its sides must be odd"):
        resize.resize({TABLE: recipe.draw("d", (16, 2))}, swin((3, 3)).model, (12, 12))


def test_a_file_keeps_its_size_when_it_is_fitted_to_another():
    """64x256 to 64x128 through `saved.fit`: the old grid is that of the file."""
    fields = dict(width=2, depth=1, num_heads=1, num_classes=0)
    name = "positions timm 4x16 4x8 1"
    shapes = Target("vit_ti16", image_size=(64, 256), **fields).shapes
    arrays = {path: np.zeros(x.shape, np.float32) for path, x in shapes.items()}
    arrays[POSITIONS] = recipe.draw(name, (1, 65, 2))
    weights = saved.Saved(unflatten(arrays), "vit_ti16", fields, (64, 256), 3)
    notes = []
    fitted = saved.fit(weights, "vit_ti16", image_size=(64, 128), report=notes.append, **fields)
    np.testing.assert_allclose(fitted["params"]["pos_embed"], GOLDEN[name], atol=1e-5)
    assert notes == ["positions resized from 4x16 to 4x8 patches"]
