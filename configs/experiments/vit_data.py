"""A ViT and a residual network on 1 to 100 % of the training images, and the parts of a ViT.

    python launch.py --config configs/experiments/vit_data.py --sweep --seeds 3
    python launch.py --config configs/experiments/vit_data.py:cifar10 --sweep --seeds 3
    python launch.py --config configs/experiments/vit_data.py --sweep=parts --seeds 3
    python launch.py --config configs/experiments/vit_data.py --sweep=patches --seeds 3
    python -m cv_jax report SWEEP_DIR

All networks make the same number of updates, whatever the number of images. `sweep_parts` changes
the positions and the pooling of the ViT. `sweep_patches` compares patch sizes with equal updates,
and with equal compute: larger patches then train for more updates.

The recipes are those of `configs/resnet20_cifar.py` (8 layers on digits) and `configs/vit_s16.py`
(on digits four blocks of width 64). Digits have 16 pixels, patches 4.
"""

from pathlib import Path

from cv_jax import config
from cv_jax.config.files import from_file

RECIPES = Path(__file__).resolve().parent.parent
OPTIONS = dict(
    net=("vit", "resnet"),
    percent=100.0,
    crops=("no", "yes"),
    positions=("learned", "none"),
    pool=("cls", "mean"),
    patch=0,
    budget=("updates", "compute"),
    steps=0,
)
PATCHES = (4, 8)


def get_config(arg=""):
    dataset, options = config.parse_argument(arg, **OPTIONS)
    digits = dataset == "digits"
    size = 16 if digits else 32
    if options["net"] == "resnet":
        model = "resnet8_cifar" if digits else "resnet20_cifar"
        c = from_file(RECIPES / "resnet20_cifar.py", f"{dataset},model={model},epochs=1")
    else:
        c = from_file(RECIPES / "vit_s16.py", dataset)
        _vit(c, options, digits)
    c.image_size = size
    c.batch_size = 32 if digits else 128
    if options["percent"] != 100:
        c.data.fraction = options["percent"] / 100
    c.augment = f"pad_crop({size // 8})" if options["crops"] == "yes" else ""
    c.total_epochs, c.total_steps = None, _steps(options, digits)
    c.schedule.name = "cosine"
    c.schedule.warmup_epochs, c.schedule.warmup_percent = None, 10.0
    c.eval.every_epochs, c.eval.every_percent = None, 50.0
    c.checkpoint.every_epochs, c.checkpoint.every_percent = None, 50.0
    c.eval.extra = ""
    return c


def _vit(c, options, digits):
    if digits:
        c.model.width, c.model.depth, c.model.num_heads = 64, 4, 2
    c.model.patch_size = options["patch"] or PATCHES[0]
    c.model.pos_embed = options["positions"]
    c.model.pool = options["pool"]


def _steps(options, digits):
    """Updates; with equal compute in proportion to the number of patches of the smallest size."""
    steps = options["steps"] or (900 if digits else 4000)
    if options["budget"] == "compute":
        steps *= (options["patch"] // PATCHES[0]) ** 2
    return steps


def sweep(arg):
    """Every network on every share of the images, with and without random crops."""
    for crops in ("no", "yes"):
        for net in ("vit", "resnet"):
            for percent in (1.0, 10.0, 100.0):
                yield {"net": net, "percent": percent, "crops": crops}


def sweep_parts():
    """The ViT without positions, and with the mean of the patches in place of a class token."""
    yield {"positions": "learned", "pool": "cls"}
    yield {"positions": "none", "pool": "cls"}
    yield {"positions": "learned", "pool": "mean"}


def sweep_patches():
    """Patch sizes with equal updates, and the larger ones with equal compute."""
    for patch in PATCHES:
        yield {"patch": patch, "budget": "updates"}
    for patch in PATCHES[1:]:
        yield {"patch": patch, "budget": "compute"}
