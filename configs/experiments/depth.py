"""Plain against residual nets of growing depth (He et al., 2015, section 4.2 and figure 6).

    python launch.py --config configs/experiments/depth.py --sweep --seeds 3
    python launch.py --config configs/experiments/depth.py:cifar10 --sweep --seeds 3
    python launch.py --config configs/experiments/depth.py:cifar10,epochs=20 --sweep --seeds 3
    python launch.py --config configs/experiments/depth.py:imagenet2012 --sweep --seeds 3
    python launch.py --config configs/experiments/depth.py --sweep=late --seeds 3
    python -m cv_jax report SWEEP_DIR --metric train_eval_accuracy

The paper's observation: past some depth a plain net gets worse also on the images that it is
trained on, which is no overfitting, and shortcuts undo that. "train_eval" therefore scores the
training images as test images are scored: not augmented, with running statistics.

Nets of 8, 20, 32, 44 and 56 layers for small images, by the recipe of `configs/resnet20_cifar.py`
on cifar10 (or in short, with `epochs`); of 18 and 34 layers on imagenet2012, by the recipe of
`configs/resnet.py`. Digits are shown at 16 pixels, all training images twelve times: three seeds
take a quarter of an hour on two CPU cores. What came out, and why: `docs/experiments.md`.
"""

from pathlib import Path

from cv_jax import config

RECIPES = Path(__file__).resolve().parent.parent
OPTIONS = dict(net=("residual", "plain"), depth=20, epochs=0.0)


def get_config(arg=""):
    dataset, options = config.parse_argument(arg, **OPTIONS)
    imagenet = dataset == "imagenet2012"
    family = "resnet" if options["net"] == "residual" else "plain"
    model = f"{family}{options['depth']}{'' if imagenet else '_cifar'}"
    recipe = "resnet.py" if imagenet else "resnet20_cifar.py"
    c = config.from_file(RECIPES / recipe, f"{dataset},model={model}")
    if options["epochs"]:
        c.total_steps, c.total_epochs = None, options["epochs"]
        c.schedule.name = "cosine"
        c.schedule.warmup_steps, c.schedule.warmup_epochs = None, 1.0
    if imagenet:
        c.eval.extra = "classification(name='train_eval', split='train[:4%]', every_epochs=10)"
        return c
    c.eval.extra = "classification(name='train_eval', split='train')"
    if dataset == "digits":
        c.image_size = 16
        c.batch_size = 32
        c.augment = "pad_crop(1)"
        c.eval.every_epochs = 4.0
        c.checkpoint.every_epochs = 4.0
    return c


def sweep(arg):
    """Every depth as a plain and as a residual net."""
    dataset, _ = config.parse_argument(arg, **OPTIONS)
    for depth in (18, 34) if dataset == "imagenet2012" else (8, 20, 32, 44, 56):
        for net in ("plain", "residual"):
            yield {"net": net, "depth": depth}


def sweep_late():
    """The deepest plain net for 40 epochs: whether it only needs longer."""
    yield {"net": "plain", "depth": 56, "epochs": 40}
