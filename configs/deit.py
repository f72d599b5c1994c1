"""Data-efficient image Transformer (Touvron et al., 2021), and its distilled network by `model`.

    python launch.py --config configs/deit.py:imagenet2012[,model=deit_b16]        published recipe
    python launch.py --config configs/deit.py[:DATASET[,model=deit_ti16_distilled]]   32×32 images

Source: `main.py` of facebookresearch/deit, for 4 GPUs. The distilled network also learns the most
likely class of a teacher, given by `--config.distill.teacher=…`; the paper's teacher is a
RegNetY-16GF. Without a teacher both heads learn the labels. The ImageNet recipe is not trained in
this repository.

Test accuracy on digits: 98.1 %, mean of seeds 0, 1 and 2; 32 seconds on two CPU cores
(`benchmarks/results/digits.json`).
"""

from cv_jax import config


def get_config(arg=""):
    dataset, options = config.parse_argument(arg, model="")
    imagenet = dataset == "imagenet2012"
    c = config.default(dataset, options["model"] or ("deit_s16" if imagenet else "deit_ti16"))
    recipe = _published if imagenet else _small
    recipe(c)
    return c


def _published(c):
    """Every image three times in a batch, strong augmentation, averaged weights."""
    c.image_size = 224
    c.batch_size = 1024
    c.total_epochs = 300.0
    c.augment = (
        "repeat(3)|inception_crop(224, method='bicubic')|flip"
        "|randaugment(2, 9, 0.5, fill=(124, 116, 104))"
        "|erase(0.25, 'pixel')|mixup_or_cutmix(0.8, 1.0, 0.5)"
    )
    c.eval_preprocess = "resize_small(256, 'bicubic')|central_crop(224)"
    c.model.drop_path_rate = 0.1
    c.loss.label_smoothing = 0.1
    c.distill.kind = "hard"
    c.distill.alpha = 0.5
    c.optim.name = "adamw"
    c.optim.learning_rate = 5e-4
    c.optim.base_batch_size = 512
    c.optim.b1, c.optim.b2 = 0.9, 0.999
    c.optim.weight_decay = 0.05
    # The default rules of the model: no weight decay on biases, scales, positions and tokens.
    c.schedule.name = "cosine"
    c.schedule.warmup_epochs = 5.0
    c.schedule.warmup_factor = 1e-3
    c.schedule.end_factor = 0.01
    c.ema.decay = 0.99996
    c.log.every_steps = 100


def _small(c):
    """Six blocks of width 96 on patches of 8×8 pixels."""
    c.batch_size = 32
    c.total_epochs = 20.0 if c.data.name == "digits" else 60.0
    c.augment = "pad_crop(4)|flip|mixup(0.2)" if c.data.name == "cifar10" else "pad_crop(1)"
    c.model.patch_size = 8
    c.model.width = 96
    c.model.depth = 6
    c.model.drop_path_rate = 0.0
    c.loss.label_smoothing = 0.1
    c.distill.kind = "hard"
    c.distill.alpha = 0.5
    c.optim.name = "adamw"
    c.optim.learning_rate = 1e-3
    c.optim.b2 = 0.98
    c.optim.weight_decay = 0.05
    # The default rules of the model: no weight decay on biases, scales, positions and tokens.
    c.optim.clip_norm = 1.0
    c.schedule.name = "cosine"
    c.schedule.warmup_epochs = 1.0
    c.eval.every_epochs = 5.0
    c.checkpoint.every_epochs = 10.0
