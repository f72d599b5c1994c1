"""Linear probe of a masked autoencoder's encoder (He et al., 2022, appendix A.1).

    python launch.py --config configs/mae_probe.py:imagenet2012[,model=vit_l16] \\
        --config.init_from=WEIGHTS
    python launch.py --config configs/mae_probe.py[:DATASET] --config.init_from=RUN

The same without training, by logistic regression on a run of `configs/mae.py`:

    python launch.py --config configs/mae.py[:DATASET] --workdir RUN --evaluate \\
        --config.eval.extra="logistic_regression(name='probe')"

WEIGHTS and RUN as in `configs/mae_finetune.py`. Only a classifier is trained, on the class token
after batch normalisation; the encoder is frozen.

Source: table 10, `FINETUNE.md` and `main_linprobe.py` of facebookresearch/mae. The ImageNet recipe
is not trained in this repository.
"""

from cv_jax import config


def get_config(arg=""):
    dataset, options = config.parse_argument(arg, model="vit_b16")
    c = config.default(dataset, options["model"])
    recipe = _paper if dataset == "imagenet2012" else _small
    recipe(c)
    return c


def _paper(c):
    """LARS without weight decay; random-resized crops, mirrored."""
    c.image_size = 224
    c.batch_size = 16384
    c.total_epochs = 90.0 if "_b" in c.model.name else 50.0
    c.augment = "inception_crop(224, method='bicubic')|flip"
    c.eval_preprocess = "resize_small(256, 'bicubic')|central_crop(224)"
    c.model.head_norm = True
    c.optim.name = "lars"
    c.optim.learning_rate = 0.1
    c.optim.base_batch_size = 256
    c.optim.momentum = 0.9
    c.optim.trust_coefficient = 1e-3
    c.optim.weight_decay = 0.0
    c.optim.rules = ("head/.*: train", ".*: freeze")
    c.schedule.name = "cosine"
    c.schedule.warmup_epochs = 10.0
    c.schedule.end_factor = 0.0
    c.log.every_steps = 20


def _small(c):
    """The encoder of `_small` in `configs/mae.py`."""
    c.batch_size = 128
    c.total_epochs = 20.0
    c.augment = "pad_crop(4)|flip" if c.data.name == "cifar10" else "pad_crop(1)"
    c.model.patch_size = 4
    c.model.width = 96
    c.model.depth = 6
    c.model.num_heads = 3
    c.model.head_norm = True
    c.optim.name = "lars"
    c.optim.learning_rate = 2.0
    c.optim.base_batch_size = 256
    c.optim.momentum = 0.9
    c.optim.weight_decay = 0.0
    c.optim.rules = ("head/.*: train", ".*: freeze")
    c.schedule.name = "cosine"
    c.schedule.warmup_epochs = 2.0
    c.eval.every_epochs = 5.0
    c.checkpoint.every_epochs = 10.0
