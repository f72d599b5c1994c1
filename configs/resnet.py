"""Residual networks (He et al., 2015), and plain networks without shortcuts by `model`.

    python launch.py --config configs/resnet.py:imagenet2012[,model=resnet101]  the paper's recipe
    python launch.py --config configs/resnet.py:imagenet2012,recipe=v1          torchvision's first
    python launch.py --config configs/resnet.py:imagenet2012,recipe=v2          its second
    python launch.py --config configs/resnet.py[:DATASET]                       8 layers, short

The paper, section 3.4, divides the learning rate by ten when the error stalls, and trains for at
most 600,000 steps; here the rate falls after 30, 60 and 80 of 90 epochs, as in the authors'
release. torchvision: `references/classification` of pytorch/vision, for 8 GPUs. Recipe v2 of
torchvision updates the averaged weights every 32 steps; here every step updates them, over the same
time. It trains on 176×176 pixels and tests on 224×224, there and here.

`tests/recipes.py` lists the sources of v1 and v2. The ImageNet recipes are not trained in this
repository. The paper's recipe for CIFAR-10 is `configs/resnet20_cifar.py`.
"""

from cv_jax import config


def get_config(arg=""):
    dataset, options = config.parse_argument(arg, model="", recipe=("paper", "v1", "v2"))
    imagenet = dataset == "imagenet2012"
    c = config.default(dataset, options["model"] or ("resnet50" if imagenet else "resnet8_cifar"))
    published = {"paper": _paper, "v1": _torchvision_v1, "v2": _torchvision_v2}
    recipe = published[options["recipe"]] if imagenet else _small
    recipe(c)
    return c


def _paper(c):
    """224×224 crops of images with a short side of 256 to 480, mirrored, with PCA lighting."""
    c.image_size = 224
    c.batch_size = 256
    c.total_epochs = 90.0
    c.augment = "random_resize_small(256, 480)|random_crop(224)|flip|lighting(0.1)"
    c.eval_preprocess = "resize_small(256)|central_crop(224)"
    c.optim.name = "sgd"
    c.optim.learning_rate = 0.1
    c.optim.momentum = 0.9
    c.optim.weight_decay = 1e-4
    c.optim.rules = config.decay_all(c.model.name)
    c.schedule.name = "multistep"
    c.schedule.milestones = (100 * 30 / 90, 100 * 60 / 90, 100 * 80 / 90)
    c.schedule.decay_factor = 0.1
    c.log.every_steps = 100


def _torchvision_v1(c):
    """Random-resized crops, mirrored; learning rate divided by ten every 30 epochs."""
    c.image_size = 224
    c.batch_size = 256
    c.total_epochs = 90.0
    c.augment = "inception_crop(224)|flip"
    c.eval_preprocess = "resize_small(256)|central_crop(224)"
    c.optim.name = "sgd"
    c.optim.learning_rate = 0.1
    c.optim.momentum = 0.9
    c.optim.weight_decay = 1e-4
    c.optim.rules = config.decay_all(c.model.name)
    c.schedule.name = "step"
    c.schedule.every_epochs = 30.0
    c.schedule.decay_factor = 0.1
    c.log.every_steps = 100


def _torchvision_v2(c):
    """600 epochs with strong augmentation and averaged weights; norms have no weight decay."""
    c.image_size = 176
    c.batch_size = 1024
    c.total_epochs = 600.0
    c.augment = (
        "repeat(4)|inception_crop(176)|flip|trivialaugment"
        "|erase(0.1, 'constant', 0.02, 0.33, 0.3, 3.3)|mixup_or_cutmix(0.2, 1.0, 0.5)"
    )
    c.eval_preprocess = "resize_small(232)|central_crop(224)"
    c.loss.label_smoothing = 0.1
    c.optim.name = "sgd"
    c.optim.learning_rate = 0.5
    c.optim.momentum = 0.9
    c.optim.weight_decay = 2e-5
    if c.model.name.startswith(("resnet", "plain")):
        last = "|norm" if "preact" in c.model.name else ""
        c.optim.rules = (rf".*(bn\d|downsample_1{last})/(bias|scale): decay=0",)
    c.schedule.name = "cosine"
    c.schedule.warmup_epochs = 5.0
    c.schedule.warmup_factor = 0.01
    c.schedule.end_factor = 0.0
    c.ema.decay = 1 - (1 - 0.99998) * 1024 / 600
    c.log.every_steps = 100


def _small(c):
    """12 epochs of a network for 32×32 images."""
    c.batch_size = 64
    c.total_epochs = 12.0
    c.augment = "pad_crop(3)"
    c.optim.name = "sgd"
    c.optim.learning_rate = 0.1
    c.optim.momentum = 0.9
    c.optim.weight_decay = 1e-4
    c.optim.rules = config.decay_all(c.model.name)
    c.schedule.name = "cosine"
    c.schedule.warmup_epochs = 1.0
    c.eval.every_epochs = 3.0
    c.checkpoint.every_epochs = 6.0
