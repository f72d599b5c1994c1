"""Residual nets (He et al., 2015), and their plain twins by `model`.

    python launch.py --config configs/resnet.py:imagenet2012[,model=resnet101]  the paper's recipe
    python launch.py --config configs/resnet.py[:DATASET]                       8 layers, short

The paper's recipe for CIFAR-10 is in `configs/resnet20_cifar.py`.

ImageNet, section 3.4: batch 256, momentum 0.9, weight decay 1e-4, learning rate 0.1 divided by ten
when the error stalls, at most 600,000 steps; 224×224 windows of images whose short side is drawn
from 256…480, mirrored, with PCA lighting. The falls are set here at 30, 60 and 80 of 90 epochs, as
in the authors' and PyTorch's releases.
"""

from cv_jax import config


def get_config(arg=""):
    dataset, options = config.parse_argument(arg, model="")
    usual = "resnet50" if dataset == "imagenet2012" else "resnet8_cifar"
    c = config.default(dataset, options["model"] or usual)
    c.optim.name = "sgd"
    c.optim.learning_rate = 0.1
    c.optim.weight_decay = 1e-4
    c.optim.rules = ()
    c.schedule.name = "multistep"
    if dataset == "imagenet2012":
        c.batch_size = 256
        c.total_epochs = 90.0
        c.augment = "random_resize_small(256, 480)|random_crop(224)|flip|lighting(0.1)"
        c.schedule.milestones = (100 * 30 / 90, 100 * 60 / 90, 100 * 80 / 90)
        c.log.every_steps = 100
    else:
        c.batch_size = 64
        c.total_epochs = 12.0
        c.augment = "pad_crop(3)"
        c.schedule.name = "cosine"
        c.schedule.warmup_epochs = 1.0
        c.eval.every_epochs = 3.0
        c.checkpoint.every_epochs = 6.0
    return c
