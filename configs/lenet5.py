"""LeNet-5 on 32×32 images, randomly shifted (LeCun et al., 1998).

    python launch.py --config configs/lenet5.py[:DATASET[,model=lenet5_1998]]

`model=lenet5_1998` is the network of the paper, with radial-basis outputs and their loss. Optimiser
and schedule are modern (Adam, cosine); the paper uses stochastic diagonal Levenberg-Marquardt.

Test accuracy on digits: 99.3 %, mean of seeds 0, 1 and 2; 13 seconds on two CPU cores
(`benchmarks/results/digits.json`).
"""

from cv_jax import config


def get_config(arg=""):
    dataset, options = config.parse_argument(arg, model="lenet5")
    c = config.default(dataset, options["model"])
    recipe = _radial_basis if options["model"] == "lenet5_1998" else _softmax
    recipe(c)
    return c


def _softmax(c):
    """Today's outputs: softmax cross-entropy."""
    c.batch_size = 128
    c.total_epochs = 40.0 if c.data.name == "digits" else 20.0
    c.augment = "pad_crop(4)|flip" if c.data.name == "cifar10" else "pad_crop(3)"
    c.loss.name = "softmax"
    c.optim.name = "adamw"
    c.optim.learning_rate = 3e-3
    c.optim.weight_decay = 0.0
    c.schedule.name = "cosine"
    c.eval.every_epochs = 5.0
    c.checkpoint.every_epochs = 10.0


def _radial_basis(c):
    """The outputs of the paper: distances to a fixed bitmap of each class."""
    _softmax(c)
    c.loss.name = "rbf"
    c.loss.margin = 10.0
    # Section II.B: background -0.1, ink 1.175. Pixels here are 0 for background and 1 for ink.
    c.data.mean, c.data.std = (0.0784,), (0.784,)
