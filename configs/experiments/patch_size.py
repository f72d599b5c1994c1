"""A Vision Transformer with patches of several sizes: cost and accuracy.

    python launch.py --config configs/experiments/patch_size.py --sweep --seeds 3
    python launch.py --config configs/experiments/patch_size.py:cifar10 --sweep --seeds 3
    python launch.py --config configs/experiments/patch_size.py:cifar10,epochs=6 --sweep=coarse
    python launch.py --config configs/experiments/patch_size.py:imagenet2012 --sweep --seeds 3
    python -m cv_jax report SWEEP_DIR

Half the patch side makes four times as many tokens: four times the work of all linear layers, and
sixteen times the work of attention. Patches have 2, 4, 8 and 16 pixels on images of 32; on
imagenet2012 14, 16 and 32 pixels on images of 224. The recipe is that of `configs/vit_s16.py`, on
digits with four blocks of width 64.

On digits three seeds take nine minutes on two CPU cores. Results: `docs/experiments.md`.
"""

from pathlib import Path

from cv_jax import config
from cv_jax.config.files import from_file

RECIPES = Path(__file__).resolve().parent.parent


def get_config(arg=""):
    dataset, options = config.parse_argument(arg, epochs=0.0)
    c = from_file(RECIPES / "vit_s16.py", f"{dataset},epochs={options['epochs']}")
    if dataset == "digits":
        _digits(c, epochs=options["epochs"] or 12.0)
    return c


def _digits(c, epochs):
    c.model.width = 64
    c.model.depth = 4
    c.model.num_heads = 2
    c.total_epochs = epochs
    c.log.every_steps = 5


def sweep(arg):
    """Every patch size."""
    dataset, _ = config.parse_argument(arg, epochs=0.0)
    for patch in (14, 16, 32) if dataset == "imagenet2012" else (2, 4, 8, 16):
        yield {"model.patch_size": patch}


def sweep_coarse():
    """Patch sizes for images of 32 pixels without the most expensive one, 2."""
    for patch in (4, 8, 16):
        yield {"model.patch_size": patch}
