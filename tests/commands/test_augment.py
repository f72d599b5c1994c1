"""`python -m cv_jax augment`."""

import numpy as np
import pytest
from PIL import Image

from cv_jax.__main__ import main


def draw(data_dir, out, string, *more):
    options = ["--dir", str(data_dir), "--out", str(out), "--rows", "2", "--columns", "3"]
    return main(["augment", string, *options, *more])


def cells(path):
    """Return the images of the grid, [rows, columns, 32, 32, 3]."""
    grid = np.asarray(Image.open(path))[4:, 4:]
    rows, columns = grid.shape[0] // 36, grid.shape[1] // 36
    grid = grid[: rows * 36, : columns * 36].reshape(rows, 36, columns, 36, 3)
    return grid.transpose(0, 2, 1, 3, 4)[:, :, :32, :32]


def test_originals_above_augmented_images(data_dir, tmp_path, capsys):
    out = tmp_path / "a.png"
    assert draw(data_dir, out, "flip(1)") == 0
    assert (
        capsys.readouterr().out == f"{out}: 6 images of digits, each above its augmented versions\n"
    )
    grid = cells(out)
    assert grid.shape == (4, 3, 32, 32, 3)
    np.testing.assert_array_equal(grid[0, :, :, ::-1], grid[1])
    np.testing.assert_array_equal(grid[2, :, :, ::-1], grid[3])
    assert not np.array_equal(grid[0], grid[2])


def test_mixed_and_erased_images_and_views(data_dir, tmp_path):
    out = tmp_path / "a.png"
    assert draw(data_dir, out, "views(2)|erase(1, 'constant')|mixup(1.0)") == 0
    grid = cells(out)
    assert grid.shape == (6, 3, 32, 32, 3)
    # The mean of digits, 0.305 of white, fills the erased box, mixed or not.
    assert not np.array_equal(grid[1], grid[2])
    assert (grid[1] == 78).any()


def test_mistakes_give_one_line_and_write_nothing(data_dir, tmp_path, capsys):
    out = tmp_path / "a.png"
    for arguments, said in (
        (["flp"], "unknown augmentation 'flp'; did you mean flip?"),
        (["lighting"], "lighting needs 3 channels, the image has 1"),
        (["flip", "--rows", "0"], "--rows=0 must be at least 1 and at most 100"),
        (["flip", "--split", "nosuch"], "nosuch"),
    ):
        assert draw(data_dir, out, *arguments) == 2
        error = capsys.readouterr().err
        assert said in error
        assert error.count("\n") == 1
        assert not out.exists()
    out.write_text("mine")
    assert draw(data_dir, out, "flip") == 2
    assert "exists; add --force to overwrite it" in capsys.readouterr().err
    assert out.read_text() == "mine"
    assert draw(data_dir, out, "flip", "--force") == 0
    assert draw(data_dir, tmp_path / "no" / "a.png", "flip") == 2
    assert "does not exist" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("string", ["randaugment(2, 9)|cutout(8)|cutmix"])
def test_the_same_seed_draws_the_same_picture(data_dir, tmp_path, string):
    pictures = []
    for seed in (0, 0, 1):
        assert draw(data_dir, tmp_path / "a.png", string, "--force", "--seed", str(seed)) == 0
        pictures.append((tmp_path / "a.png").read_bytes())
    assert pictures[0] == pictures[1] != pictures[2]
