"""The plain ViT baseline (Beyer, Zhai and Kolesnikov, 2022, arXiv:2205.01580), ViT-S/16.

    python launch.py --config configs/vit_s16.py:imagenet2012                 90 epochs
    python launch.py --config configs/vit_s16.py:imagenet2012,epochs=300
    python launch.py --config configs/vit_s16.py[:DATASET]                    32×32 images, small

Fixed sine-cosine positions, the average of all tokens, a linear classifier (in the authors' config
a hidden layer stands before it, which the paper finds to make no difference that matters); batch
1024, AdamW with rate 1e-3 after 10,000 steps of warm-up, cosine to 0, weight decay 1e-4, gradients
clipped at norm 1, first moments in bfloat16; inception crops, mirrored, RandAugment (2, 10) and
mixup 0.2. It trains on 99 % of the training images; the last per cent is left for choosing between
settings. There, weight decay is multiplied by the schedule alone, here by the learning rate: hence
0.1. Cubuk's RandAugment has posterise, solarise and the blends grow weaker with the strength.
"""

from cv_jax import config


def get_config(arg=""):
    dataset, options = config.parse_argument(arg, model="vit_s16", epochs=0.0)
    c = config.default(dataset, options["model"])
    c.model.pos_embed = "sincos"
    c.model.pool = "mean"
    c.optim.clip_norm = 1.0
    c.optim.learning_rate = 1e-3
    if dataset == "imagenet2012":
        c.data.train_split = "train[:99%]"
        c.batch_size = 1024
        c.total_epochs = options["epochs"] or 90.0
        c.augment = "inception_crop(224, 0.05)|flip|randaugment(2, 10, increasing=False)|mixup(0.2)"
        c.model.dtype = "bfloat16"
        c.optim.moment_dtype = "bfloat16"
        c.optim.weight_decay = 0.1
        c.schedule.warmup_epochs, c.schedule.warmup_steps = None, 10000
        c.eval.every_epochs = 2.0
        c.log.every_steps = 50
        return c
    c.batch_size = 32
    c.model.width = 96
    c.model.depth = 6
    c.model.num_heads = 3
    c.model.patch_size = 8
    c.total_epochs = options["epochs"] or (16.0 if dataset == "digits" else 40.0)
    c.augment = "pad_crop(1)" if dataset != "cifar10" else "pad_crop(4)|flip"
    c.optim.weight_decay = 0.05
    c.optim.b2 = 0.98
    c.schedule.warmup_epochs = 1.0
    c.eval.every_epochs = 4.0
    c.checkpoint.every_epochs = 8.0
    return c
