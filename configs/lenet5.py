"""LeNet-5 on 32×32 images, padded and cropped at random (LeCun et al., 1998).

    python launch.py --config configs/lenet5.py[:DATASET[,model=lenet5_1998]]

`model=lenet5_1998` is the net of the paper with its radial-basis outputs and a loss for them.
Optimiser and schedule are today's (Adam, cosine), not the paper's stochastic diagonal
Levenberg-Marquardt. Test accuracy on digits: 99.3 %, the mean of seeds 0, 1 and 2, within half a
minute on two CPU cores (`benchmarks/results/digits.json`).
"""

from cv_jax import config


def get_config(arg=""):
    dataset, options = config.parse_argument(arg, model="lenet5")
    c = config.default(dataset, options["model"])
    c.batch_size = 128
    c.total_epochs = 40.0 if dataset == "digits" else 20.0
    c.augment = "pad_crop(3)" if dataset != "cifar10" else "pad_crop(4)|flip"
    c.optim.learning_rate = 3e-3
    if c.model.name == "lenet5_1998":
        c.loss.name = "rbf"
        # Paper −0.1 and ink 1.175 (section II.B); here 0 is paper and 1 is ink.
        c.data.mean, c.data.std = (0.0784,), (0.784,)
    c.eval.every_epochs = 5.0
    c.checkpoint.every_epochs = 10.0
    return c
