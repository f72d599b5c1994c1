"""Writes resize.npz: python tests/golden/make_resize.py

Needs torch and timm; the tests do not. The file has tables of `recipe.draw`, resampled in float32
by functions of the libraries: timm's `resample_abs_pos_embed`, `resample_patch_embed` and
`resize_rel_pos_bias_table`; `interpolate`, as MAE, Swin and DINOv2 call it. The name of an array is
kind, library, old and new size, and number of tokens before the patches.
"""

import pathlib
import sys
import types

# torchvision's compiled operators do not load with a CPU build of torch; networks need none.
sys.modules.setdefault("torchvision._meta_registrations", types.ModuleType("unused"))

import numpy as np  # noqa: E402
import recipe  # noqa: E402
import torch  # noqa: E402
from timm.layers import resample_abs_pos_embed, resample_patch_embed  # noqa: E402
from timm.layers.pos_embed_rel import resize_rel_pos_bias_table  # noqa: E402
from torch.nn.functional import interpolate  # noqa: E402

DIM = 2
GRIDS = [
    ((4, 16), (4, 8)),
    ((4, 16), (8, 8)),
    ((8, 8), (4, 16)),
    ((3, 5), (6, 4)),
    ((7, 7), (3, 11)),
    ((14, 14), (9, 20)),
    ((1, 6), (2, 3)),
    ((2, 3), (3, 2)),
]
PATCHES = [((8, 4), (4, 4)), ((4, 4), (8, 8)), ((6, 6), (4, 4)), ((3, 5), (4, 4)), ((2, 2), (5, 5))]
WINDOWS = [
    ((4, 7), (2, 7)),
    ((7, 7), (4, 7)),
    ((2, 7), (7, 7)),
    ((3, 3), (5, 5)),
    ((5, 5), (3, 3)),
    ((7, 4), (4, 2)),
    ((6, 3), (8, 8)),
]


def draw(name: str, *shape: int) -> torch.Tensor:
    return torch.from_numpy(recipe.draw(name, shape))


def text(size) -> str:
    return "x".join(map(str, size))


def image(table: torch.Tensor, size) -> torch.Tensor:
    """[1, rows·columns, D] → [1, D, rows, columns]."""
    return table.reshape(1, *size, -1).permute(0, 3, 1, 2)


def rows(image: torch.Tensor) -> torch.Tensor:
    return image.permute(0, 2, 3, 1).flatten(1, 2)


def positions(library: str, table: torch.Tensor, old, new, prefix: int) -> torch.Tensor:
    if library == "timm":
        return resample_abs_pos_embed(table, new, old, num_prefix_tokens=prefix)
    if library == "dinov2":  # `interpolate_pos_encoding`
        options = dict(scale_factor=tuple((n + 0.1) / o for n, o in zip(new, old, strict=True)))
    else:  # MAE's `interpolate_pos_embed`
        options = dict(size=new, align_corners=False)
    grid = interpolate(image(table[:, prefix:], old), mode="bicubic", **options)
    assert grid.shape[2:] == new
    return torch.cat([table[:, :prefix], rows(grid)], dim=1)


def main():
    found = {}
    for old, new in GRIDS:
        for library in ("timm", "mae", "dinov2"):
            for prefix in (1,) if library == "dinov2" else (0, 1, 5):
                name = f"positions {library} {text(old)} {text(new)} {prefix}"
                table = draw(name, 1, prefix + old[0] * old[1], DIM)
                found[name] = positions(library, table, old, new, prefix)
    for old, new in PATCHES:
        name = f"patches timm {text(old)} {text(new)} 0"
        found[name] = resample_patch_embed(draw(name, DIM, 3, *old), new)
    for old, new in WINDOWS:
        source, target = (tuple(2 * side - 1 for side in window) for window in (old, new))
        for library in ("timm", "swin"):
            name = f"windows {library} {text(old)} {text(new)} 0"
            table = draw(name, source[0] * source[1], DIM)
            if library == "timm":
                shape = (target[0] * target[1], DIM)
                found[name] = resize_rel_pos_bias_table(table, new, shape, old)
            else:  # Swin's `load_pretrained`
                grid = interpolate(image(table[None], source), size=target, mode="bicubic")
                found[name] = rows(grid)[0]
    path = pathlib.Path(__file__).parent / "resize.npz"
    np.savez_compressed(path, **{name: x.numpy() for name, x in found.items()})
    print(path.name, len(found), "arrays", path.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
