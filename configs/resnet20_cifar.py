"""Residual nets for small images (He et al., 2015, section 4.2), and their plain twins by `model`.

    python launch.py --config configs/resnet20_cifar.py:cifar10[,model=plain20_cifar]
    python launch.py --config configs/resnet20_cifar.py:cifar10,epochs=10   in short
    python launch.py --config configs/resnet20_cifar.py:cifar10,epochs=10 --sweep=augment --seeds 3
    python launch.py --config configs/resnet20_cifar.py[:DATASET]           digits, in short

The paper's recipe: batch 128, momentum 0.9, learning rate 0.1 divided by ten at steps 32,000 and
48,000 of 64,000, weight decay 1e-4 on all parameters, 4 pixels of padding, mirrored. (It trains 110
layers at a rate of 0.01 until the training error falls below 80 %; here the first 400 steps warm
up.) With `epochs` little time has to do: four times as many updates of batches of 32, at a rate of
0.05 that falls as a cosine after one epoch of warm-up, Nesterov's momentum and a decay of 5e-4.
"train_eval" then scores a fifth of the training images as test images are scored, so that the sweep
tells what augmentation does to the gap between the two.
"""

from cv_jax import config


def get_config(arg=""):
    dataset, options = config.parse_argument(arg, model="resnet20_cifar", epochs=0.0)
    c = config.default(dataset, options["model"])
    c.optim.name = "sgd"
    c.optim.learning_rate = 0.1
    c.optim.weight_decay = 1e-4
    c.optim.rules = ()
    c.augment = "pad_crop(4)|flip" if dataset == "cifar10" else "pad_crop(3)"
    if dataset == "cifar10" and not options["epochs"]:
        c.total_epochs, c.total_steps = None, 64000
        c.schedule.name = "multistep"
        c.schedule.milestones = (50.0, 75.0)
        if "110" in c.model.name:
            c.schedule.warmup_steps = 400
        c.eval.every_epochs = 5.0
        c.checkpoint.every_epochs = 5.0
        return c
    c.total_epochs = options["epochs"] or 12.0
    c.schedule.warmup_epochs = 1.0
    c.checkpoint.every_epochs = 2.0
    if dataset == "cifar10":
        c.eval.extra = "classification(name='train_eval', split='train[:20%]')"
        c.eval.every_epochs = c.total_epochs / 2
        c.checkpoint.every_epochs = 0.5
        c.batch_size = 32
        c.optim.learning_rate = 0.05
        c.optim.nesterov = True
        c.optim.weight_decay = 5e-4
    return c


def sweep_augment():
    """With and without augmentation."""
    yield {"augment": "pad_crop(4)|flip"}
    yield {"augment": ""}
