"""All architectures on one dataset, from a linear classifier to Swin, each with its own recipe.

    python launch.py --config configs/experiments/lineage.py --sweep --seeds 3
    python launch.py --config configs/experiments/lineage.py:cifar10 --sweep --seeds 3
    python launch.py --config configs/experiments/lineage.py:imagenet2012 --sweep --seeds 3
    python -m cv_jax report SWEEP_DIR

The report is a historical table: year, receptive field of the last layer with spatial units,
parameters, multiply-adds, accuracy on training images ("train_eval": without augmentation) and test
images, and time. On imagenet2012 the table starts at AlexNet and every network has its published
size; on smaller images networks have the small sizes of `configs/*.py`. A masked autoencoder has no
accuracy and is left out.

On digits three seeds take half an hour on two CPU cores. Results: `docs/experiments.md`.
"""

from pathlib import Path

from cv_jax import config
from cv_jax.config.files import from_file

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
    model, recipes = options["model"], _recipes(dataset)
    if model not in recipes:
        raise ValueError(f"model={model} is not one of {', '.join(recipes)}")
    c = from_file(RECIPES / recipes[model], f"{dataset},model={model}")
    split = "train[:4%]" if dataset == "imagenet2012" else "train"
    c.eval.extra = f"classification(name='train_eval', split='{split}', every_percent=100)"
    return c


def _recipes(dataset):
    return LARGE if dataset == "imagenet2012" else SMALL


def sweep(arg):
    """Every model of the table."""
    dataset, _ = config.parse_argument(arg, model="linear")
    for model in _recipes(dataset):
        yield {"model": model}
