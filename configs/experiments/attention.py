"""A ViT with and without the division of attention scores by the root of the head's width.

    python launch.py --config configs/experiments/attention.py --sweep --seeds 3
    python launch.py --config configs/experiments/attention.py:cifar10 --sweep --seeds 3
    python -m cv_jax report SWEEP_DIR

The recipe is that of `configs/vit_s16.py`; on digits four blocks of width 64 with two wide heads,
on patches of 2 of 16 pixels, and 200 training images.
"""

from pathlib import Path

from cv_jax import config
from cv_jax.config.files import from_file

RECIPES = Path(__file__).resolve().parent.parent
OPTIONS = dict(scale=("sqrt", "none"), epochs=0.0)


def get_config(arg=""):
    dataset, options = config.parse_argument(arg, **OPTIONS)
    c = from_file(RECIPES / "vit_s16.py", dataset)
    c.model.patch_size = 4
    c.model.attention_scale = options["scale"]
    c.total_epochs = options["epochs"] or (60.0 if dataset == "digits" else 6.0)
    if dataset == "digits":
        c.model.width, c.model.depth, c.model.num_heads = 64, 4, 2
        c.image_size = 16
        c.model.patch_size = 2
        c.data.train_split = "train[:200]"
    split = c.data.train_split
    c.eval.extra = f"classification(name='train_eval', split='{split}', every_percent=100)"
    c.eval.every_epochs = c.checkpoint.every_epochs = c.total_epochs / 2
    return c


def sweep():
    """With and without the division."""
    for scale in ("sqrt", "none"):
        yield {"scale": scale}
