"""The whole line on one dataset, from a linear classifier to Swin, each by its own recipe.

    python launch.py --config configs/experiments/lineage.py --sweep --seeds 3
    python launch.py --config configs/experiments/lineage.py:cifar10 --sweep --seeds 3
    python launch.py --config configs/experiments/lineage.py:imagenet2012 --sweep --seeds 3
    python -m cv_jax report SWEEP_DIR

The report is the historical table: year, receptive field of the last layer whose units have a place
in the image, parameters, multiply-adds, accuracy on the training images ("train_eval": not
augmented) and on the test images, and time. On imagenet2012 the line starts at AlexNet, each net at
its published size; on smaller images nets are as small as `configs/*.py` make them. A masked
autoencoder has no accuracy of its own and is not among them. On digits three seeds take half
an hour on two CPU cores; the table is in the README.
"""

from pathlib import Path

from cv_jax import config

RECIPES = Path(__file__).resolve().parent.parent
# Model → file of its recipe.
SMALL = {
    "linear": "linear.py",
    "mlp": "mlp.py",
    "lenet5": "lenet5.py",
    "alexnet": "alexnet.py",
    "vgg11_bn": "vgg.py",
    "resnet20_cifar": "resnet20_cifar.py",
    "vit_s16": "vit_s16.py",
    "image_transformer_ti": "image_transformer.py",
    "deit_ti16": "deit.py",
    "swin_t": "swin.py",
}
LARGE = {
    "alexnet": "alexnet.py",
    "vgg16": "vgg.py",
    "resnet50": "resnet.py",
    "vit_b16": "vit_b16.py",
    "image_transformer_ti": "image_transformer.py",
    "deit_s16": "deit.py",
    "swin_t": "swin.py",
}


def get_config(arg=""):
    dataset, options = config.parse_argument(arg, model="linear")
    line = _line(dataset)
    if options["model"] not in line:
        raise ValueError(f"model {options['model']!r} is none of {', '.join(line)}")
    recipe = RECIPES / line[options["model"]]
    c = config.from_file(recipe, f"{dataset},model={options['model']}")
    split = "train[:4%]" if dataset == "imagenet2012" else "train"
    c.eval.extra = f"classification(name='train_eval', split='{split}', every_percent=100)"
    return c


def _line(dataset):
    return LARGE if dataset == "imagenet2012" else SMALL


def sweep(arg):
    """Every model of the line."""
    dataset, _ = config.parse_argument(arg, model="linear")
    for model in _line(dataset):
        yield {"model": model}
