"""Data-efficient image Transformer (Touvron et al., 2021), and the distilled net by `model`.

    python launch.py --config configs/deit.py:imagenet2012[,model=deit_b16]        published recipe
    python launch.py --config configs/deit.py[:DATASET[,model=deit_ti16_distilled]]   32×32 images

Recipe of the authors' code: AdamW, learning rate 5e-4 for every 512 examples of a batch (here
1024), cosine to 1e-5 after 5 epochs of warm-up from 1e-6, weight decay 0.05 (none on biases, norms,
positions and tokens), 300 epochs, label smoothing 0.1, stochastic depth 0.1, every image three
times in a batch, RandAugment, random erasing, mixup 0.8 or CutMix, averaged weights (0.99996).
The distilled net learns the decisions of a teacher as well, given by `--config.distill.teacher=…`;
the paper's is a RegNetY-16GF. Without one both heads learn the labels.
"""

from cv_jax import config


def get_config(arg=""):
    dataset, options = config.parse_argument(arg, model="")
    imagenet = dataset == "imagenet2012"
    c = config.default(dataset, options["model"] or ("deit_s16" if imagenet else "deit_ti16"))
    c.optim.weight_decay = 0.05
    c.model.drop_path_rate = 0.1
    c.loss.label_smoothing = 0.1
    c.distill.kind = "hard"
    if imagenet:
        c.batch_size = 1024
        c.total_epochs = 300.0
        c.augment = (
            "repeat(3)|inception_crop(224, method='bicubic')|flip"
            "|randaugment(2, 9, 0.5, fill=(124, 116, 104))"
            "|erase(0.25, 'pixel')|mixup_or_cutmix(0.8, 1.0, 0.5)"
        )
        c.eval_preprocess = "resize_small(256, 'bicubic')|central_crop(224)"
        c.optim.learning_rate = 5e-4
        c.optim.base_batch_size = 512
        c.schedule.warmup_epochs = 5.0
        c.schedule.warmup_factor = 1e-3
        c.schedule.end_factor = 0.01
        c.ema.decay = 0.99996
        c.log.every_steps = 100
        return c
    c.batch_size = 32
    c.model.patch_size = 8
    c.model.width = 96
    c.model.depth = 6
    c.model.drop_path_rate = 0.0
    c.total_epochs = 20.0 if dataset == "digits" else 60.0
    c.augment = "pad_crop(4)|flip|mixup(0.2)" if dataset == "cifar10" else "pad_crop(1)"
    c.optim.learning_rate = 1e-3
    c.optim.b2 = 0.98
    c.optim.clip_norm = 1.0
    c.schedule.warmup_epochs = 1.0
    c.eval.every_epochs = 5.0
    c.checkpoint.every_epochs = 10.0
    return c
