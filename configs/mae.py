"""Masked autoencoder (He et al., 2022): pre-training without labels.

    python launch.py --config configs/mae.py:imagenet2012[,model=mae_vit_l16]   the paper's recipe
    python launch.py --config configs/mae.py[:DATASET]                          32×32 images, small

The loss compares pixels that are standardised in each patch. Evaluation gives no accuracy: it is
the loss on the test images, with the same patches removed each time. Source: appendix A.1, table 8,
and `PRETRAIN.md` of facebookresearch/mae. The ImageNet recipe is not trained in this repository.
"""

from cv_jax import config


def get_config(arg=""):
    dataset, options = config.parse_argument(arg, model="mae_vit_b16")
    c = config.default(dataset, options["model"])
    recipe = _paper if dataset == "imagenet2012" else _small
    recipe(c)
    return c


def _paper(c):
    """800 epochs; crops of at least a fifth of the area, mirrored."""
    c.image_size = 224
    c.batch_size = 4096
    c.total_epochs = 800.0
    c.augment = "inception_crop(224, 0.2, 1.0, method='bicubic')|flip"
    c.eval_preprocess = "resize_small(256, 'bicubic')|central_crop(224)"
    # The default of the model is the ratio of the paper: mask_ratio = 0.75.
    c.optim.name = "adamw"
    c.optim.learning_rate = 1.5e-4
    c.optim.base_batch_size = 256
    c.optim.b1, c.optim.b2 = 0.9, 0.95
    c.optim.weight_decay = 0.05
    if c.model.name.startswith("mae"):  # the official code decays the tokens
        c.optim.rules = (".*(bias|scale): decay=0",)
    c.schedule.name = "cosine"
    c.schedule.warmup_epochs = 40.0
    c.schedule.end_factor = 0.0
    c.log.every_steps = 100
    c.eval.every_epochs = 20.0


def _small(c):
    """Six encoder blocks of width 96 and two decoder blocks of width 64, on patches of 4×4."""
    c.batch_size = 64
    c.total_epochs = 40.0 if c.data.name == "digits" else 100.0
    c.augment = "pad_crop(4)|flip" if c.data.name == "cifar10" else "pad_crop(3)"
    # The default of the model is the ratio of the paper: mask_ratio = 0.75.
    c.model.patch_size = 4
    c.model.width = 96
    c.model.depth = 6
    c.model.num_heads = 3
    c.model.decoder_width = 64
    c.model.decoder_depth = 2
    c.model.decoder_num_heads = 4
    c.optim.name = "adamw"
    c.optim.learning_rate = 1e-3
    c.optim.b2 = 0.95
    c.optim.weight_decay = 0.05
    if c.model.name.startswith("mae"):  # the official code decays the tokens
        c.optim.rules = (".*(bias|scale): decay=0",)
    c.schedule.name = "cosine"
    c.schedule.warmup_epochs = 2.0
    c.eval.every_epochs = 10.0
    c.checkpoint.every_epochs = 20.0
