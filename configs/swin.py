"""Swin Transformer (Liu et al., 2021), and its second version by `model`.

    python launch.py --config configs/swin.py:imagenet2012[,model=swin_s]     the paper's recipe
    python launch.py --config configs/swin.py:imagenet2012,recipe=torchvision
    python launch.py --config configs/swin.py[:DATASET[,model=swinv2_t]]      32×32 images, small

Recipe of the paper, appendix A2.1, and of the authors' code: AdamW, batch 1024, learning rate 1e-3,
cosine to 1e-5 after 20 epochs of warm-up from 1e-6, weight decay 0.05 (none on biases, norms and
bias tables), gradients clipped at norm 5, 300 epochs, label smoothing 0.1, RandAugment, random
erasing, mixup 0.8 or CutMix, stochastic depth 0.2, 0.3, 0.5 for tiny, small and base.
torchvision's differs in the augmentation: TrivialAugment, every image four times in a batch, tests
resized as was best for the trained net; in the warm-up, which starts at a hundredth; and in its
averaged weights, there at every 32nd step, here at each, over the same time.

Small images have patches of 2 pixels and windows of 4 tokens, so that maps of 16, 8 and 4 tokens
are cut without a rest and the first two are shifted.
"""

from cv_jax import config


def get_config(arg=""):
    dataset, options = config.parse_argument(arg, model="swin_t", recipe=("paper", "torchvision"))
    recipe = options["recipe"]
    c = config.default(dataset, options["model"])
    c.optim.weight_decay = 0.05
    c.optim.rules = (".*(bias|scale|relative_position_bias_table|cpb_mlp.*): decay=0",)
    c.optim.clip_norm = 5.0
    c.loss.label_smoothing = 0.1
    if dataset == "imagenet2012":
        c.batch_size = 1024
        c.total_epochs = 300.0
        c.model.drop_path_rate = {"t": 0.2, "s": 0.3, "b": 0.5}.get(c.model.name[-1], 0.2)
        c.augment = (
            "inception_crop(224, method='bicubic')|flip"
            "|randaugment(2, 9, 0.5, fill=(124, 116, 104))"
            "|erase(0.25, 'pixel')|mixup_or_cutmix(0.8, 1.0, 0.5)"
        )
        c.eval_preprocess = "resize_small(256, 'bicubic')|central_crop(224)"
        c.optim.learning_rate = 1e-3
        c.schedule.warmup_epochs = 20.0
        c.schedule.warmup_factor = 1e-3
        c.schedule.end_factor = 0.01
        c.log.every_steps = 100
    if dataset == "imagenet2012" and recipe == "torchvision":
        c.augment = (
            "repeat(4)|inception_crop(224, method='bicubic')|flip|trivialaugment('bicubic')"
            "|erase(0.25, 'constant', 0.02, 0.33, 0.3, 3.3)|mixup_or_cutmix(0.8, 1.0, 0.5)"
        )
        side = {"t": 232, "s": 246, "b": 238}.get(c.model.name[-1], 232)
        c.eval_preprocess = f"resize_small({side}, 'bicubic')|central_crop(224)"
        c.schedule.warmup_factor = 0.01
        c.ema.decay = 1 - (1 - 0.99998) * 1024 / 300
    if dataset == "imagenet2012":
        return c
    c.batch_size = 32
    c.optim.b2 = 0.98
    c.model.patch_size = 2
    c.model.window_size = 4
    c.model.width = 32
    c.model.depths = (2, 2, 2)
    c.model.num_heads = (1, 2, 4)
    c.model.pretrained_windows = (0,)
    c.model.drop_path_rate = 0.0 if dataset == "digits" else 0.1
    c.total_epochs = 16.0 if dataset == "digits" else 60.0
    c.augment = "pad_crop(4)|flip" if dataset == "cifar10" else "pad_crop(1)"
    c.optim.learning_rate = 1e-3
    c.schedule.warmup_epochs = 1.0
    c.eval.every_epochs = 3.0
    c.checkpoint.every_epochs = 6.0
    return c
