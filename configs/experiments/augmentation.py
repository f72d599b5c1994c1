"""Augmentations, added one after the other, for a residual network, a ViT and a linear classifier.

    python launch.py --config configs/experiments/augmentation.py --sweep --seeds 3
    python launch.py --config configs/experiments/augmentation.py:cifar10 --sweep --seeds 3
    python launch.py --config configs/experiments/augmentation.py:imagenet2012 --sweep --seeds 3
    python launch.py --config configs/experiments/augmentation.py --sweep=crops --seeds 3
    python launch.py --config configs/experiments/augmentation.py --sweep=long --seeds 3
    python -m cv_jax report SWEEP_DIR

none → flip and crop → + colour → + RandAugment → + mixup → + CutMix → + erasing. Test images are
evaluated unchanged, shifted down and right by an eighth of their side ("shifted"), and mirrored.
Shifted and mirrored training images exist only with augmentation.

Apart from the augmentation, the recipes are those of `configs/resnet20_cifar.py` (8 layers on
digits; `configs/resnet.py` on imagenet2012), `configs/vit_s16.py` and `configs/linear.py`. All
networks of a dataset train for the same number of epochs. Digits are few on purpose: 40 training
images of each class, at 16 pixels.

On digits three seeds take twelve minutes on two CPU cores. Results: `docs/experiments.md`.
"""

from pathlib import Path

from cv_jax import config
from cv_jax.config.files import from_file

RECIPES = Path(__file__).resolve().parent.parent
POLICIES = ("none", "flip_crop", "colour", "randaugment", "mixup", "cutmix", "erasing")
OPTIONS = dict(net=("resnet", "vit", "linear"), policy=POLICIES, epochs=0.0)
EPOCHS = {"digits": 50.0, "cifar10": 100.0, "imagenet2012": 90.0}


def get_config(arg=""):
    dataset, options = config.parse_argument(arg, **OPTIONS)
    recipe = {"resnet": _resnet, "vit": _vit, "linear": _linear}[options["net"]]
    c = recipe(dataset)
    if dataset == "digits":
        _few_digits(c)
    _train(c, epochs=options["epochs"] or EPOCHS.get(dataset, 100.0))
    c.augment = augmentation(options["policy"], c.image_size, dataset == "imagenet2012")
    _evaluate_moved_images(c)
    return c


def _resnet(dataset):
    if dataset == "imagenet2012":
        return from_file(RECIPES / "resnet.py", f"{dataset},model=resnet50")
    model = "resnet8_cifar" if dataset == "digits" else "resnet20_cifar"
    return from_file(RECIPES / "resnet20_cifar.py", f"{dataset},model={model}")


def _vit(dataset):
    c = from_file(RECIPES / "vit_s16.py", dataset)
    if dataset == "digits":
        c.model.patch_size = 4
        c.model.width = 64
        c.model.depth = 4
        c.model.num_heads = 2
    return c


def _linear(dataset):
    return from_file(RECIPES / "linear.py", dataset)


def _few_digits(c):
    """40 training images of each class, at 16 pixels."""
    c.image_size = 16
    c.data.per_class = 40
    c.batch_size = 32


def _train(c, epochs):
    """The same schedule for every network."""
    c.total_steps, c.total_epochs = None, epochs
    c.schedule.name = "cosine"
    c.schedule.warmup_steps, c.schedule.warmup_epochs = None, min(5.0, epochs / 10)
    c.eval.every_epochs = epochs / 4
    c.checkpoint.every_epochs = epochs / 4


def _evaluate_moved_images(c):
    """Also evaluate shifted and mirrored test images."""
    whole = c.eval_preprocess or f"resize({c.image_size})"
    pixels = c.image_size // 8
    c.eval.extra = (
        f"classification(name='shifted', preprocess='{whole}|shift({pixels}, {pixels})')"
        f"|classification(name='mirrored', preprocess='{whole}|mirror')"
    )


def augmentation(policy, size, imagenet):
    """Return the augmentation of a policy and of all policies before it, in order of execution."""
    added = POLICIES[: POLICIES.index(policy) + 1]
    operations = [f"resize_small({size * 8 // 7})|central_crop({size})"] if imagenet else []
    if "flip_crop" in added:
        operations = [f"inception_crop({size})" if imagenet else f"pad_crop({size // 8})", "flip"]
    if "colour" in added:
        operations.append("colour_jitter(0.4, 0.4, 0.4)")
    if "randaugment" in added:
        operations.append("randaugment(2, 9)")
    if "erasing" in added:
        operations.append("erase(0.25)")
    if "cutmix" in added:
        operations.append("mixup_or_cutmix(0.8, 1.0, 0.5)")
    elif "mixup" in added:
        operations.append("mixup(0.8)")
    return "|".join(operations)


def sweep(arg):
    """Every policy with every network; no linear classifier on imagenet2012."""
    dataset, _ = config.parse_argument(arg, **OPTIONS)
    for net in OPTIONS["net"]:
        if net != "linear" or dataset != "imagenet2012":
            for policy in POLICIES:
                yield {"net": net, "policy": policy}


def sweep_crops(arg):
    """Every network without augmentation, and with random crops and mirroring."""
    for point in sweep(arg):
        if point["policy"] in ("none", "flip_crop"):
            yield point


def sweep_long():
    """Four policies for 400 epochs: does strong augmentation only need longer training?"""
    for net in ("resnet", "vit"):
        for policy in ("none", "flip_crop", "randaugment", "erasing"):
            yield {"net": net, "policy": policy, "epochs": 400}
