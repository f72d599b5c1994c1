"""AlexNet (Krizhevsky, Sutskever and Hinton, 2012), with two towers.

    python launch.py --config configs/alexnet.py:imagenet2012   the paper's recipe, sections 3 to 5
    python launch.py --config configs/alexnet.py[:DATASET]      64×64 images, a narrow network

The paper trains for about 90 epochs and divides the learning rate by ten three times, when the
validation error stalls; here the rate falls after each quarter of the training. The paper averages
ten views of a test image; here one central view is evaluated. The ImageNet recipe is not trained in
this repository.

Test accuracy on digits: 97.5 %, mean of seeds 0, 1 and 2; 2.3 minutes on one CPU core
(`benchmarks/results/experiments/lineage/report.md`).
"""

from cv_jax import config


def get_config(arg=""):
    dataset, options = config.parse_argument(arg, model="alexnet")
    c = config.default(dataset, options["model"])
    recipe = _paper if dataset == "imagenet2012" else _small
    recipe(c)
    return c


def _paper(c):
    """224×224 crops of images with a short side of 256, mirrored, with PCA lighting."""
    c.image_size = 224
    c.batch_size = 128
    c.total_epochs = 90.0
    c.augment = "resize_small(256)|central_crop(256)|random_crop(224)|flip|lighting(0.1)"
    c.eval_preprocess = "resize_small(256)|central_crop(224)"
    # The default of the model is the dropout of the paper: dropout_rate = 0.5.
    c.optim.name = "sgd"
    c.optim.learning_rate = 0.01
    c.optim.momentum = 0.9
    c.optim.weight_decay = 5e-4
    c.optim.rules = config.decay_all(c.model.name)
    c.schedule.name = "multistep"
    c.schedule.milestones = (25.0, 50.0, 75.0)
    c.schedule.decay_factor = 0.1
    c.log.every_steps = 100


def _small(c):
    """1.3 million parameters; He's initialisation and clipping make the short training stable."""
    c.image_size = 64
    c.batch_size = 64
    c.total_epochs = 20.0 if c.data.name == "digits" else 60.0
    c.augment = "pad_crop(6)|flip" if c.data.name == "cifar10" else "pad_crop(6)"
    c.model.channels = (48, 96, 128, 128, 96)
    c.model.fc_width = 256
    # The default of the model is the dropout of the paper: dropout_rate = 0.5.
    c.model.kernel_init = "he"
    c.optim.name = "sgd"
    c.optim.learning_rate = 0.02
    c.optim.momentum = 0.9
    c.optim.weight_decay = 5e-4
    c.optim.rules = config.decay_all(c.model.name)
    c.optim.clip_norm = 1.0
    c.schedule.name = "cosine"
    c.schedule.warmup_epochs = 1.0
    c.eval.every_epochs = 5.0
    c.checkpoint.every_epochs = 10.0
