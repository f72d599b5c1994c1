"""A Swin with shifted and with fixed windows.

    python launch.py --config configs/experiments/windows.py --sweep --seeds 3
    python launch.py --config configs/experiments/windows.py:cifar10 --sweep --seeds 3
    python -m cv_jax report SWEEP_DIR

Without the shift, tokens of different windows never meet before patches merge. The recipe is that
of `configs/swin.py`; on digits two stages of width 24 on 16 pixels, with windows of 4 of 8 tokens.
"""

from pathlib import Path

from cv_jax import config
from cv_jax.config.files import from_file

RECIPES = Path(__file__).resolve().parent.parent
OPTIONS = dict(windows=("shifted", "fixed"), epochs=0.0)


def get_config(arg=""):
    dataset, options = config.parse_argument(arg, **OPTIONS)
    c = from_file(RECIPES / "swin.py", dataset)
    c.model.shift = options["windows"] == "shifted"
    c.total_epochs = options["epochs"] or (36.0 if dataset == "digits" else 20.0)
    if dataset == "digits":
        c.image_size = 16
        c.model.width, c.model.depths, c.model.num_heads = 24, (4, 2), (1, 2)
    c.eval.every_epochs = c.checkpoint.every_epochs = c.total_epochs / 2
    return c


def sweep():
    """With and without the shift."""
    for windows in ("shifted", "fixed"):
        yield {"windows": windows}
