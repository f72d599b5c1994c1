"""Augmentations, added one after the other, for a residual net, a ViT and a linear classifier.

    python launch.py --config configs/experiments/augmentation.py --sweep --seeds 3
    python launch.py --config configs/experiments/augmentation.py:cifar10 --sweep --seeds 3
    python launch.py --config configs/experiments/augmentation.py:imagenet2012 --sweep --seeds 3
    python launch.py --config configs/experiments/augmentation.py --sweep=long --seeds 3
    python -m cv_jax report SWEEP_DIR

none → flip and crop → + colour → + RandAugment → + mixup → + CutMix → + erasing. Test images are
scored as they are, moved down and right by an eighth of their side ("shifted"), and mirrored.
Nothing here learns from moved images unless the augmentation moves them; a linear classifier could
not if it did.

Digits are few on purpose: 40 training images of each class, at 16 pixels. The recipes are those of
`configs/resnet20_cifar.py` (8 layers on digits; on imagenet2012 `configs/resnet.py`),
`configs/vit_s16.py` and `configs/linear.py`, but for the augmentation; all nets of a dataset train
for the same number of epochs. On digits three seeds take twelve minutes on two CPU cores. What came
out, and why: `docs/experiments.md`.
"""

from pathlib import Path

from cv_jax import config

RECIPES = Path(__file__).resolve().parent.parent
POLICIES = ("none", "flip_crop", "colour", "randaugment", "mixup", "cutmix", "erasing")
OPTIONS = dict(net=("resnet", "vit", "linear"), policy=POLICIES, epochs=0.0)
EPOCHS = {"digits": 50.0, "cifar10": 100.0, "imagenet2012": 90.0}


def get_config(arg=""):
    dataset, options = config.parse_argument(arg, **OPTIONS)
    c = _recipe(dataset, options["net"])
    c.total_steps, c.total_epochs = None, options["epochs"] or EPOCHS.get(dataset, 100.0)
    c.schedule.name = "cosine"
    c.schedule.warmup_steps, c.schedule.warmup_epochs = None, min(5.0, c.total_epochs / 10)
    imagenet = dataset == "imagenet2012"
    if dataset == "digits":
        c.image_size = 16
        c.data.per_class = 40
        c.batch_size = 32
    c.augment = augmentation(options["policy"], c.image_size, imagenet)
    whole = c.eval_preprocess or f"resize({c.image_size})"
    moved = c.image_size // 8
    c.eval.extra = (
        f"classification(name='shifted', preprocess='{whole}|shift({moved}, {moved})')"
        f"|classification(name='mirrored', preprocess='{whole}|mirror')"
    )
    c.eval.every_epochs = c.total_epochs / 4
    c.checkpoint.every_epochs = c.total_epochs / 4
    return c


def augmentation(policy, size, imagenet):
    """The policy and all before it, in the order in which operations run."""
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


def _recipe(dataset, net):
    small = dataset != "imagenet2012"
    if net == "linear":
        return config.from_file(RECIPES / "linear.py", dataset)
    if net == "vit":
        c = config.from_file(RECIPES / "vit_s16.py", dataset)
        if dataset == "digits":
            c.model.patch_size = 4
            c.model.width = 64
            c.model.depth = 4
            c.model.num_heads = 2
        return c
    recipe, model = ("resnet20_cifar.py", "resnet20_cifar") if small else ("resnet.py", "resnet50")
    model = "resnet8_cifar" if dataset == "digits" else model
    return config.from_file(RECIPES / recipe, f"{dataset},model={model}")


def sweep(arg):
    """Every policy with every net; on imagenet2012 without the linear classifier."""
    dataset, _ = config.parse_argument(arg, **OPTIONS)
    for net in OPTIONS["net"]:
        if net != "linear" or dataset != "imagenet2012":
            for policy in POLICIES:
                yield {"net": net, "policy": policy}


def sweep_long():
    """Some policies for 400 epochs: whether strong augmentation only needs longer training."""
    for net in ("resnet", "vit"):
        for policy in ("none", "flip_crop", "randaugment", "erasing"):
            yield {"net": net, "policy": policy, "epochs": 400}
