"""Residual nets (He et al., 2015), and their plain twins by `model`.

    python launch.py --config configs/resnet.py:imagenet2012[,model=resnet101]  the paper's recipe
    python launch.py --config configs/resnet.py:imagenet2012,recipe=v1          torchvision's first
    python launch.py --config configs/resnet.py:imagenet2012,recipe=v2          its second
    python launch.py --config configs/resnet.py[:DATASET]                       8 layers, short

The paper's recipe for CIFAR-10 is in `configs/resnet20_cifar.py`.

The paper, section 3.4: batch 256, momentum 0.9, weight decay 1e-4, learning rate 0.1 divided by ten
when the error stalls, at most 600,000 steps; 224×224 windows of images whose short side is drawn
from 256…480, mirrored, with PCA lighting. The falls are set here at 30, 60 and 80 of 90 epochs, as
in the authors' release.

v1: random-resized crops, mirrored, and the rate divided by ten every 30 of 90 epochs.
v2: 600 epochs at batch 1024 and 176×176 pixels, rate 0.5 falling as a cosine after 5 epochs of
warm-up, weight decay 2e-5 except in batch normalisation, label smoothing 0.1, TrivialAugment,
random erasing, mixup 0.2 or CutMix, every image four times in a batch. Weights are averaged there
at every 32nd step, here at each, over the same time. Tests are at 224 pixels there and here.
"""

from cv_jax import config


def get_config(arg=""):
    dataset, options = config.parse_argument(arg, model="", recipe=("paper", "v1", "v2"))
    recipe = options["recipe"]
    usual = "resnet50" if dataset == "imagenet2012" else "resnet8_cifar"
    c = config.default(dataset, options["model"] or usual)
    c.optim.name = "sgd"
    c.optim.learning_rate = 0.1
    c.optim.weight_decay = 1e-4
    c.optim.rules = ()
    if dataset != "imagenet2012":
        c.batch_size = 64
        c.total_epochs = 12.0
        c.augment = "pad_crop(3)"
        c.schedule.warmup_epochs = 1.0
        c.eval.every_epochs = 3.0
        c.checkpoint.every_epochs = 6.0
        return c
    c.batch_size = 256
    c.total_epochs = 90.0
    c.log.every_steps = 100
    if recipe == "paper":
        c.augment = "random_resize_small(256, 480)|random_crop(224)|flip|lighting(0.1)"
        c.schedule.name = "multistep"
        c.schedule.milestones = (100 * 30 / 90, 100 * 60 / 90, 100 * 80 / 90)
    if recipe == "v1":
        c.augment = "inception_crop(224)|flip"
        c.schedule.name = "step"
        c.schedule.every_epochs = 30.0
    if recipe == "v2":
        c.batch_size = 1024
        c.total_epochs = 600.0
        c.augment = (
            "repeat(4)|inception_crop(176)|flip|trivialaugment"
            "|erase(0.1, 'constant', 0.02, 0.33, 0.3, 3.3)|mixup_or_cutmix(0.2, 1.0, 0.5)"
        )
        c.image_size = 176
        c.eval_preprocess = "resize_small(232)|central_crop(224)"
        c.optim.learning_rate = 0.5
        c.optim.weight_decay = 2e-5
        c.optim.rules = (r".*(bn\d|downsample_1)/(bias|scale): decay=0",)
        c.schedule.warmup_epochs = 5.0
        c.schedule.warmup_factor = 0.01
        c.loss.label_smoothing = 0.1
        c.ema.decay = 1 - (1 - 0.99998) * 1024 / 600
    return c
