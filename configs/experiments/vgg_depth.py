"""VGG of growing depth, without shortcuts and without normalisation.

    python launch.py --config configs/experiments/vgg_depth.py --sweep --seeds 3
    python launch.py --config configs/experiments/vgg_depth.py:cifar10 --sweep --seeds 3
    python -m cv_jax report SWEEP_DIR

Three stages of 1, 2, 4, 8 and 12 convolutions with He's initialisation, a narrow head, and
gradients clipped to norm 1. On digits images have 16 pixels.
"""

from pathlib import Path

from cv_jax import config
from cv_jax.config.files import from_file

RECIPES = Path(__file__).resolve().parent.parent
FILTERS = (1, 2, 4, 8, 12)
OPTIONS = dict(filters=1, epochs=0.0)


def get_config(arg=""):
    dataset, options = config.parse_argument(arg, **OPTIONS)
    c = from_file(RECIPES / "vgg.py", f"{dataset},model=vgg11")
    c.model.depths, c.model.widths = (options["filters"],) * 3, (16, 32, 64)
    c.model.fc_width = 64
    c.model.dropout_rate = 0.0
    c.optim.clip_norm = 1.0
    c.batch_size = 32
    c.total_epochs = options["epochs"] or 10.0
    if dataset == "digits":
        c.image_size = 16
    c.eval.extra = "classification(name='train_eval', split='train', every_percent=100)"
    c.eval.every_epochs = c.checkpoint.every_epochs = c.total_epochs / 2
    return c


def sweep():
    """Every depth."""
    for filters in FILTERS:
        yield {"filters": filters}
