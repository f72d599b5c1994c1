"""A Vision Transformer with patches of every size: what smaller ones cost, and what they bring.

    python launch.py --config configs/experiments/patch_size.py --sweep --seeds 3
    python launch.py --config configs/experiments/patch_size.py:cifar10 --sweep --seeds 3
    python launch.py --config configs/experiments/patch_size.py:cifar10,epochs=6 --sweep=coarse
    python launch.py --config configs/experiments/patch_size.py:imagenet2012 --sweep --seeds 3
    python -m cv_jax report SWEEP_DIR

Half the side of a patch makes four times as many tokens: four times the work of the products, and
sixteen times that of the attention itself. Patches of 2, 4, 8 and 16 pixels on images of 32; on
imagenet2012 of 14, 16 and 32 pixels on 224. The recipe is that of `configs/vit_s16.py`, on digits
with a net of four blocks and 64 channels: nine minutes on two CPU cores. What came out, and why:
`docs/experiments.md`.
"""

from pathlib import Path

from cv_jax import config

RECIPES = Path(__file__).resolve().parent.parent


def get_config(arg=""):
    dataset, options = config.parse_argument(arg, epochs=0.0)
    c = config.from_file(RECIPES / "vit_s16.py", f"{dataset},epochs={options['epochs']}")
    if dataset == "digits":
        c.model.width = 64
        c.model.depth = 4
        c.model.num_heads = 2
        c.total_epochs = options["epochs"] or 12.0
        c.log.every_steps = 5
    return c


def sweep(arg):
    """Every patch size."""
    dataset, _ = config.parse_argument(arg, epochs=0.0)
    for patch in (14, 16, 32) if dataset == "imagenet2012" else (2, 4, 8, 16):
        yield {"model.patch_size": patch}


def sweep_coarse():
    """Without the smallest of images of 32 pixels, which costs as much as many of the others."""
    for patch in (4, 8, 16):
        yield {"model.patch_size": patch}
