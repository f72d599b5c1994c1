"""CIFAR-10 in eight epochs: airbench94 with Muon (Jordan, 2024, arXiv:2404.00498).

    python launch.py --config configs/cifar_speedrun.py:cifar10        published recipe
    python launch.py --config configs/cifar_speedrun.py[:DATASET]      ten epochs

On a GPU add `--config.model.dtype=bfloat16` (the reference has float16), and for programs of whole
epochs `--config.data.cache=device --config.steps_per_program=25`.

The recipe is that of `airbench94_muon.py` in github.com/KellerJordan/cifar10-airbench: whitening
first layer, Muon for the filters, SGD for all other parameters, alternating flip, six test-time
views. The metric lines `one_view` are the accuracy without views. Other widths need other rates of
SGD, because the logits are divided by the number of features. No accuracy was measured yet.
"""

from cv_jax import config

BATCH_SIZE, EPOCHS = 2000, 8.0


def get_config(arg=""):
    dataset, options = config.parse_argument(arg, model="airbench94")
    c = config.default(dataset, options["model"])
    if dataset == "cifar10":
        c.batch_size, c.total_epochs = BATCH_SIZE, EPOCHS
        c.augment = "alternating_flip|pad_crop(2, 'reflect')"
        c.eval_preprocess = "diagonal_shifts|flips"
    else:  # digits have no mirror images
        c.batch_size, c.total_epochs = 128, 10.0
        c.augment = "pad_crop(2, 'reflect')"
        c.eval_preprocess = "diagonal_shifts"
    _airbench(c)
    return c


def _airbench(c):
    """The published optimiser and evaluation.

    The reference sums the loss over the batch, here it is the mean: rates of SGD are multiplied by
    the batch size. Muon does not depend on the scale of the loss.
    """
    muon_rate, bias_rate, head_rate = 0.24, 0.053, 0.67
    whitening_percent = 100 * 3 / 8  # 3 of 8 epochs
    c.loss.label_smoothing = 0.2
    c.optim.name = "muon"
    c.optim.learning_rate = muon_rate
    c.optim.momentum = 0.6
    c.optim.muon_iterations = 3
    c.optim.muon_scale = "none"
    c.optim.muon_keep_norms = True
    c.optim.others = "sgd"
    c.optim.others_momentum = 0.85
    c.optim.nesterov = True
    c.optim.weight_decay = 2e-6

    def sgd(rate):
        # The decay of the reference is divided by the rate, so both have the same product.
        return f"lr={rate * c.batch_size / muon_rate:.9g} decay={1 / rate:.9g}"

    c.optim.rules = (
        "whiten/kernel: freeze",
        f"whiten/bias: until={whitening_percent:g}%",
        f".*bias: {sgd(bias_rate)}",
        f"head/kernel: {sgd(head_rate)}",
        ".*: decay=0",
    )
    c.schedule.name = "linear"
    c.eval.average = "logits"
    c.eval.batch_size = 2000
    c.eval.extra = "classification(name='one_view', preprocess='')"
    c.log.every_steps, c.log.every_epochs = None, 1.0
    c.eval.every_epochs = c.total_epochs
    c.checkpoint.every_epochs = c.total_epochs
