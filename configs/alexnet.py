"""AlexNet (Krizhevsky, Sutskever and Hinton, 2012), two towers, on 224×224 images.

    python launch.py --config configs/alexnet.py:imagenet2012   the paper's recipe, sections 3 to 5
    python launch.py --config configs/alexnet.py[:DATASET]      64×64 images, a narrow net

Recipe of the paper: batch 128, momentum 0.9, weight decay 5e-4, learning rate 0.01 divided by ten
three times, about 90 epochs; 224×224 windows of images whose short side is 256, mirrored, with PCA
lighting. It lowered the rate when the validation error stalled; here it falls after each quarter.
It averaged ten views at test time; here the middle one is scored.
"""

from cv_jax import config


def get_config(arg=""):
    dataset, options = config.parse_argument(arg, model="alexnet")
    c = config.default(dataset, options["model"])
    c.optim.name = "sgd"
    c.batch_size = 128
    c.optim.weight_decay = 5e-4
    c.optim.rules = ()
    if dataset == "imagenet2012":
        c.total_epochs = 90.0
        c.augment = "resize_small(256)|central_crop(256)|random_crop(224)|flip|lighting(0.1)"
        c.optim.learning_rate = 0.01
        c.schedule.name = "multistep"
        c.schedule.milestones = (25.0, 50.0, 75.0)
        c.log.every_steps = 100
        return c
    c.image_size = 64
    c.batch_size = 64
    c.model.channels = (48, 96, 128, 128, 96)
    c.model.fc_width = 256
    c.model.kernel_init = "he"
    c.total_epochs = 20.0 if dataset == "digits" else 60.0
    c.augment = "pad_crop(6)|flip" if dataset == "cifar10" else "pad_crop(6)"
    c.optim.learning_rate = 0.02
    c.schedule.warmup_epochs = 1.0
    c.optim.clip_norm = 1.0
    c.eval.every_epochs = 5.0
    c.checkpoint.every_epochs = 10.0
    return c
