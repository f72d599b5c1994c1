"""The plain ViT baseline (Beyer, Zhai and Kolesnikov, 2022, arXiv:2205.01580), ViT-S/16.

    python launch.py --config configs/vit_s16.py:imagenet2012                 90 epochs
    python launch.py --config configs/vit_s16.py:imagenet2012,epochs=300
    python launch.py --config configs/vit_s16.py[:DATASET]                    32×32 images, small

Source: `configs/vit_s16_i1k.py` of google-research/big_vision. Two differences: the classifier is
linear, where the authors' config has a hidden layer (the paper finds no difference that matters);
their weight decay of 1e-4 is multiplied by the schedule only, here by the learning rate as well,
hence 0.1. The RandAugment of that source makes posterise, solarise and the blends weaker as the
strength grows (`increasing=False`). The ImageNet recipe is not trained in this repository.

Test accuracy on digits: 96.8 %, mean of seeds 0, 1 and 2; 35 seconds on one CPU core
(`benchmarks/results/experiments/lineage/report.md`).
"""

from cv_jax import config


def get_config(arg=""):
    dataset, options = config.parse_argument(arg, model="vit_s16", epochs=0.0)
    c = config.default(dataset, options["model"])
    if dataset == "imagenet2012":
        _paper(c, epochs=options["epochs"] or 90.0)
    else:
        _small(c, epochs=options["epochs"] or (16.0 if dataset == "digits" else 40.0))
    return c


def _paper(c, epochs):
    """Trains on 99 % of the training images; the last 1 % is for choosing between settings."""
    c.data.train_split = "train[:99%]"
    c.image_size = 224
    c.batch_size = 1024
    c.total_epochs = epochs
    c.augment = "inception_crop(224, 0.05)|flip|randaugment(2, 10, increasing=False)|mixup(0.2)"
    c.eval_preprocess = "resize_small(256)|central_crop(224)"
    c.model.pos_embed = "sincos"
    c.model.pool = "mean"
    c.model.dtype = "bfloat16"
    c.optim.name = "adamw"
    c.optim.learning_rate = 1e-3
    c.optim.b1, c.optim.b2 = 0.9, 0.999
    c.optim.moment_dtype = "bfloat16"
    c.optim.weight_decay = 0.1
    # The default rules of the model: no weight decay on biases, scales, positions and tokens.
    c.optim.clip_norm = 1.0
    c.schedule.name = "cosine"
    c.schedule.warmup_epochs, c.schedule.warmup_steps = None, 10000
    c.schedule.end_factor = 0.0
    c.eval.every_epochs = 2.0
    c.log.every_steps = 50


def _small(c, epochs):
    """Six blocks of width 96 on patches of 8×8 pixels."""
    c.batch_size = 32
    c.total_epochs = epochs
    c.augment = "pad_crop(4)|flip" if c.data.name == "cifar10" else "pad_crop(1)"
    c.model.patch_size = 8
    c.model.width = 96
    c.model.depth = 6
    c.model.num_heads = 3
    c.model.pos_embed = "sincos"
    c.model.pool = "mean"
    c.optim.name = "adamw"
    c.optim.learning_rate = 1e-3
    c.optim.b2 = 0.98
    c.optim.weight_decay = 0.05
    # The default rules of the model: no weight decay on biases, scales, positions and tokens.
    c.optim.clip_norm = 1.0
    c.schedule.name = "cosine"
    c.schedule.warmup_epochs = 1.0
    c.eval.every_epochs = 4.0
    c.checkpoint.every_epochs = 8.0
