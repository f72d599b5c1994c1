"""Stacked 3×3 filters against one 7×7 filter, and growing receptive fields.

    python launch.py --config configs/experiments/receptive_field.py --sweep --seeds 3
    python launch.py --config configs/experiments/receptive_field.py:cifar10 --sweep --seeds 3
    python launch.py --config configs/experiments/receptive_field.py --sweep=field --seeds 3
    python -m cv_jax report SWEEP_DIR

A VGG of two stages with batch normalisation. The first has one 3×3 filter. The second, from 32 to
32 channels, has three 3×3 filters (`three_3x3`), or one 7×7 filter: the same field with 1.8 times
the weights (`one_7x7`), or with fewer channels and as many weights as three (`one_7x7_narrow`).
`sweep_field` has one 1×1, and one, two and three 3×3 filters in the second stage.
"""

from pathlib import Path

from cv_jax import config
from cv_jax.config.files import from_file

RECIPES = Path(__file__).resolve().parent.parent
# Name → filters of the second stage, their side, and their channels.
NETS = {
    "three_3x3": (3, 3, 32),
    "two_3x3": (2, 3, 32),
    "one_3x3": (1, 3, 32),
    "one_1x1": (1, 1, 32),
    "one_7x7": (1, 7, 32),
    "one_7x7_narrow": (1, 7, 18),
}
OPTIONS = dict(net=tuple(NETS), epochs=0.0)


def get_config(arg=""):
    dataset, options = config.parse_argument(arg, **OPTIONS)
    c = from_file(RECIPES / "vgg.py", f"{dataset},model=vgg11_bn")
    filters, side, width = NETS[options["net"]]
    c.model.depths, c.model.widths = (1, filters), (32, width)
    c.model.kernel_sizes = (3, side)
    c.model.fc_width = 32
    c.model.dropout_rate = 0.0
    c.optim.learning_rate = 0.05
    c.batch_size = 32
    c.total_epochs = options["epochs"] or (40.0 if dataset == "digits" else 10.0)
    if dataset == "digits":
        c.data.train_split = "train[:200]"
        c.image_size = 16
    split = c.data.train_split
    c.eval.extra = f"classification(name='train_eval', split='{split}', every_percent=100)"
    c.eval.every_epochs = c.checkpoint.every_epochs = c.total_epochs / 2
    return c


def sweep():
    """Three 3×3 filters against one 7×7 filter, at equal width and at equal parameters."""
    for net in ("three_3x3", "one_7x7", "one_7x7_narrow"):
        yield {"net": net}


def sweep_field():
    """Receptive fields of growing size."""
    for net in ("one_1x1", "one_3x3", "two_3x3", "three_3x3"):
        yield {"net": net}
