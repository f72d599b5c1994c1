"""What AlexNet added, taken away one at a time.

    python launch.py --config configs/experiments/alexnet.py --sweep --seeds 3
    python launch.py --config configs/experiments/alexnet.py:cifar10 --sweep --seeds 3
    python -m cv_jax report SWEEP_DIR

tanh in place of ReLU, no dropout, one tower in place of two, no response normalisation, pooling
without overlap, no augmentation; on colour images also without PCA lighting. Apart from the change
the recipe is that of `configs/alexnet.py`, on digits with half the channels.
"""

from pathlib import Path

from cv_jax import config
from cv_jax.config.files import from_file

RECIPES = Path(__file__).resolve().parent.parent
CHANGES = ("none", "tanh", "no_dropout", "one_tower", "no_lrn", "no_overlap", "no_augmentation")
COLOUR_CHANGES = (*CHANGES, "no_lighting")
OPTIONS = dict(change=COLOUR_CHANGES, epochs=0.0)


def get_config(arg=""):
    dataset, options = config.parse_argument(arg, **OPTIONS)
    c = from_file(RECIPES / "alexnet.py", dataset)
    c.total_epochs = options["epochs"] or 20.0
    if dataset == "digits":
        c.model.channels = (24, 48, 64, 64, 48)
        c.model.fc_width = 128
    else:
        c.augment += "|lighting(0.1)"
    _change(c, options["change"])
    c.log.every_steps = 5
    c.eval.every_epochs = c.checkpoint.every_epochs = c.total_epochs / 2
    c.eval.extra = "classification(name='train_eval', split='train', every_percent=100)"
    return c


def _change(c, change):
    if change == "tanh":
        c.model.act = "tanh"
    elif change == "no_dropout":
        c.model.dropout_rate = 0.0
    elif change == "one_tower":
        c.model.groups = (1, 1, 1, 1, 1)
    elif change == "no_lrn":
        c.model.lrn = False
    elif change == "no_overlap":
        c.model.overlap = False
    elif change == "no_augmentation":
        c.augment = ""
    elif change == "no_lighting":
        c.augment = c.augment.replace("|lighting(0.1)", "")


def sweep(arg):
    """The network of the paper, and every change."""
    dataset, _ = config.parse_argument(arg, **OPTIONS)
    for change in CHANGES if dataset == "digits" else COLOUR_CHANGES:
        yield {"change": change}
