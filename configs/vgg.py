"""VGG (Simonyan and Zisserman, 2014): 3×3 filters in 11 to 19 layers, chosen by `model`.

    python launch.py --config configs/vgg.py:imagenet2012[,model=vgg19]   the paper's recipe
    python launch.py --config configs/vgg.py[:DATASET[,model=vgg11_bn]]   32×32 images, small head

The paper, section 3.1, trains for 74 epochs and divides the learning rate by ten three times, when
the validation error stalls; here the rate falls after each quarter of the training. The paper
starts deep networks from the trained network A; here He's initialisation (2015) replaces that. The
ImageNet recipe is not trained in this repository.

Test accuracy on digits: 96.9 %, mean of seeds 0, 1 and 2; 10 minutes on one CPU core
(`benchmarks/results/experiments/lineage/report.md`).
"""

from cv_jax import config


def get_config(arg=""):
    dataset, options = config.parse_argument(arg, model="")
    imagenet = dataset == "imagenet2012"
    c = config.default(dataset, options["model"] or ("vgg16" if imagenet else "vgg11_bn"))
    recipe = _paper if imagenet else _small
    recipe(c)
    return c


def _paper(c):
    """224×224 crops of images with a short side of 256 to 512, mirrored, with PCA lighting."""
    c.image_size = 224
    c.batch_size = 256
    c.total_epochs = 74.0
    c.augment = "random_resize_small(256, 512)|random_crop(224)|flip|lighting(0.1)"
    c.eval_preprocess = "resize_small(256)|central_crop(224)"
    # The model has dropout_rate = 0.5, as in the paper, and kernel_init = "he" by default.
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
    """Batch normalisation, and fully connected layers of 512 units."""
    c.batch_size = 64
    c.total_epochs = 6.0 if c.data.name == "digits" else 60.0
    c.augment = "pad_crop(4)|flip" if c.data.name == "cifar10" else "pad_crop(3)"
    c.model.pool_size = 1
    c.model.fc_width = 512
    # The default of the model is the dropout of the paper: dropout_rate = 0.5.
    c.optim.name = "sgd"
    c.optim.learning_rate = 0.01
    c.optim.momentum = 0.9
    c.optim.weight_decay = 5e-4
    # The default rules of the model: no weight decay on biases and scales.
    c.schedule.name = "cosine"
    c.schedule.warmup_epochs = 1.0
    c.eval.every_epochs = 2.0
    c.checkpoint.every_epochs = 5.0
