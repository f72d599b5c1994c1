"""Plain and residual networks of growing depth (He et al., 2015, section 4.2 and figure 6).

    python launch.py --config configs/experiments/depth.py --sweep --seeds 3
    python launch.py --config configs/experiments/depth.py:cifar10 --sweep --seeds 3
    python launch.py --config configs/experiments/depth.py:cifar10,epochs=20 --sweep --seeds 3
    python launch.py --config configs/experiments/depth.py:imagenet2012 --sweep --seeds 3
    python launch.py --config configs/experiments/depth.py --sweep=late --seeds 3
    python launch.py --config configs/experiments/depth.py --sweep=few --seeds 3
    python launch.py --config configs/experiments/depth.py --sweep=cures --seeds 3
    python launch.py --config configs/experiments/depth.py --sweep=variants --seeds 3
    python -m cv_jax report SWEEP_DIR --metric train_eval_accuracy

The paper observes that beyond some depth a plain network gets worse on its own training images,
which is not overfitting, and that shortcuts remove the effect. "train_eval" therefore evaluates the
training images like test images: without augmentation, with running statistics.

Networks of 8, 20, 32, 44 and 56 layers on small images follow `configs/resnet20_cifar.py`; networks
of 18 and 34 layers on imagenet2012 follow `configs/resnet.py`. With `epochs` the schedule is a
cosine of that length. Digits have 16 pixels and train for twelve epochs.

`change` changes one thing: a tenth of the learning rate, a warm-up of half the training, no batch
normalisation (with a tenth of the rate and clipped gradients), projections as shortcuts (B where
the dimension changes, C in every block), or stochastic depth.

On digits three seeds take a quarter of an hour on two CPU cores. Results: `docs/experiments.md`.
"""

from pathlib import Path

from cv_jax import config
from cv_jax.config.files import from_file

RECIPES = Path(__file__).resolve().parent.parent
CHANGES = ("none", "small_rate", "warm_up", "no_norm", "shortcut_b", "shortcut_c")
CHANGES += ("stochastic_depth",)
OPTIONS = dict(net=("residual", "plain"), depth=20, epochs=0.0, change=CHANGES)


def get_config(arg=""):
    dataset, options = config.parse_argument(arg, **OPTIONS)
    family = "resnet" if options["net"] == "residual" else "plain"
    recipe = _imagenet if dataset == "imagenet2012" else _small
    c = recipe(dataset, f"{family}{options['depth']}")
    if options["epochs"]:
        _shorten(c, options["epochs"])
    _change(c, options["change"])
    return c


def _change(c, change):
    if change == "small_rate":
        c.optim.learning_rate /= 10
    elif change == "warm_up":
        c.schedule.warmup_steps = c.schedule.warmup_epochs = None
        c.schedule.warmup_percent = 50.0
    elif change == "no_norm":  # the rate of the paper diverges
        c.model.norm = "none"
        c.optim.learning_rate /= 10
        c.optim.clip_norm = 1.0
    elif change in ("shortcut_b", "shortcut_c"):
        c.model.shortcut = change[-1].upper()
    elif change == "stochastic_depth":
        c.model.drop_path_rate = 0.2


def _imagenet(dataset, network):
    c = from_file(RECIPES / "resnet.py", f"{dataset},model={network}")
    c.eval.extra = "classification(name='train_eval', split='train[:4%]', every_epochs=10)"
    return c


def _small(dataset, network):
    c = from_file(RECIPES / "resnet20_cifar.py", f"{dataset},model={network}_cifar")
    c.eval.extra = "classification(name='train_eval', split='train')"
    if dataset == "digits":
        c.image_size = 16
        c.batch_size = 32
        c.augment = "pad_crop(1)"
        c.eval.every_epochs = 4.0
        c.checkpoint.every_epochs = 4.0
    return c


def _shorten(c, epochs):
    c.total_steps, c.total_epochs = None, epochs
    c.schedule.name = "cosine"
    c.schedule.warmup_steps, c.schedule.warmup_epochs = None, 1.0


def sweep(arg):
    """Every depth as a plain and as a residual network."""
    dataset, _ = config.parse_argument(arg, **OPTIONS)
    for depth in (18, 34) if dataset == "imagenet2012" else (8, 20, 32, 44, 56):
        for net in ("plain", "residual"):
            yield {"net": net, "depth": depth}


def sweep_late():
    """The deepest plain network for 40 epochs: does it only need longer training?"""
    yield {"net": "plain", "depth": 56, "epochs": 40}


def sweep_few():
    """Three depths as plain and as residual networks."""
    for depth in (8, 20, 44):
        for net in ("plain", "residual"):
            yield {"net": net, "depth": depth}


def sweep_cures():
    """What makes a deep plain network trainable without shortcuts?"""
    for change in ("none", "small_rate", "warm_up", "no_norm"):
        yield {"net": "plain", "depth": 44, "change": change}


def sweep_variants():
    """Residual networks with other shortcuts, and with stochastic depth."""
    for change in ("none", "shortcut_b", "shortcut_c", "stochastic_depth"):
        yield {"depth": 20, "change": change}
