"""VGG (Simonyan and Zisserman, 2014): sixteen layers of 3×3 filters, or as many as `model` says.

    python launch.py --config configs/vgg.py:imagenet2012[,model=vgg19]   the paper's recipe
    python launch.py --config configs/vgg.py[:DATASET[,model=vgg11_bn]]   32×32 images, small head

Recipe of the paper, section 3.1: batch 256, momentum 0.9, weight decay 5e-4, dropout 0.5, learning
rate 0.01 divided by ten three times, 74 epochs; 224×224 windows of images whose short side is drawn
from 256…512, mirrored, with PCA lighting. It lowered the rate when the validation error stalled;
here it falls after each quarter. It started the deeper nets from the trained A; here He's
initialisation (2015) makes that unnecessary.
"""

from cv_jax import config


def get_config(arg=""):
    dataset, options = config.parse_argument(arg, model="")
    imagenet = dataset == "imagenet2012"
    c = config.default(dataset, options["model"] or ("vgg16" if imagenet else "vgg11_bn"))
    c.optim.name = "sgd"
    c.optim.weight_decay = 5e-4
    if imagenet:
        c.batch_size = 256
        c.total_epochs = 74.0
        c.augment = "random_resize_small(256, 512)|random_crop(224)|flip|lighting(0.1)"
        c.optim.learning_rate = 0.01
        c.optim.rules = ()
        c.schedule.name = "multistep"
        c.schedule.milestones = (25.0, 50.0, 75.0)
        c.log.every_steps = 100
        return c
    c.batch_size = 64
    c.model.pool_size = 1
    c.model.fc_width = 512
    c.total_epochs = 6.0 if dataset == "digits" else 60.0
    c.augment = "pad_crop(4)|flip" if dataset == "cifar10" else "pad_crop(3)"
    c.optim.learning_rate = 0.01
    c.schedule.warmup_epochs = 1.0
    c.eval.every_epochs = 2.0
    c.checkpoint.every_epochs = 5.0
    return c
