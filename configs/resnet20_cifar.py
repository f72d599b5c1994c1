"""Residual networks for small images (He et al., 2015, section 4.2), and plain ones by `model`.

    python launch.py --config configs/resnet20_cifar.py:cifar10[,model=plain20_cifar]  64,000 steps
    python launch.py --config configs/resnet20_cifar.py:cifar10,epochs=10              short
    python launch.py --config configs/resnet20_cifar.py:cifar10,epochs=10 --sweep=augment --seeds 3
    python launch.py --config configs/resnet20_cifar.py[:DATASET]                      12 epochs

Test accuracy on CIFAR-10 with `epochs=10`: 83.6 %, mean of seeds 0, 1 and 2; half an hour on one
CPU core (`benchmarks/results/experiments/cifar_augment/report.md`). On digits: 98.0 %; 1.6 minutes
on one CPU core (`benchmarks/results/experiments/lineage/report.md`). The paper's recipe is not
trained in this repository.
"""

from cv_jax import config


def get_config(arg=""):
    dataset, options = config.parse_argument(arg, model="resnet20_cifar", epochs=0.0)
    c = config.default(dataset, options["model"])
    if dataset != "cifar10":
        _small(c, epochs=options["epochs"] or 12.0)
    elif options["epochs"]:
        _short(c, epochs=options["epochs"])
    else:
        _paper(c)
    return c


def _paper(c):
    """The paper's recipe for CIFAR-10: learning rate divided by ten after 32,000 and 48,000 steps.

    The paper trains 110 layers at a learning rate of 0.01 until the training error is below 80 %;
    here a warm-up of 400 steps replaces that.
    """
    c.batch_size = 128
    c.total_epochs, c.total_steps = None, 64000
    c.augment = "pad_crop(4)|flip"
    c.optim.name = "sgd"
    c.optim.learning_rate = 0.1
    c.optim.momentum = 0.9
    c.optim.weight_decay = 1e-4
    c.optim.rules = config.decay_all(c.model.name)
    c.schedule.name = "multistep"
    c.schedule.milestones = (50.0, 75.0)
    c.schedule.decay_factor = 0.1
    c.schedule.warmup_steps = 400 if "110" in c.model.name else None
    c.eval.every_epochs = 5.0
    c.checkpoint.every_epochs = 5.0


def _short(c, epochs):
    """CIFAR-10 in few epochs: batches of 32 make four times as many updates.

    "train_eval" evaluates a fifth of the training images without augmentation. The sweep compares
    it with the test accuracy.
    """
    c.batch_size = 32
    c.total_epochs = epochs
    c.augment = "pad_crop(4)|flip"
    c.optim.name = "sgd"
    c.optim.learning_rate = 0.05
    c.optim.momentum = 0.9
    c.optim.nesterov = True
    c.optim.weight_decay = 5e-4
    c.optim.rules = config.decay_all(c.model.name)
    c.schedule.name = "cosine"
    c.schedule.warmup_epochs = 1.0
    c.eval.extra = "classification(name='train_eval', split='train[:20%]')"
    c.eval.every_epochs = epochs / 2
    c.checkpoint.every_epochs = 0.5


def _small(c, epochs):
    """Digits and other small datasets."""
    c.batch_size = 128
    c.total_epochs = epochs
    c.augment = "pad_crop(3)"
    c.optim.name = "sgd"
    c.optim.learning_rate = 0.1
    c.optim.momentum = 0.9
    c.optim.weight_decay = 1e-4
    c.optim.rules = config.decay_all(c.model.name)
    c.schedule.name = "cosine"
    c.schedule.warmup_epochs = 1.0
    c.checkpoint.every_epochs = 2.0


def sweep_augment():
    """`--sweep=augment`: with and without augmentation."""
    yield {"augment": "pad_crop(4)|flip"}
    yield {"augment": ""}
