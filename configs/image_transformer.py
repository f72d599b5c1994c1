"""ViT encoder and Transformer decoder: the class of an image, written as a sequence of tokens.

    python launch.py --config configs/image_transformer.py:imagenet2012   the net at its full size
    python launch.py --config configs/image_transformer.py[:DATASET]      32×32 images, small

The decoder is to write BOS, the token of the class, EOS; accuracy is that of the first token after
BOS. There is no published recipe for this net: optimiser and schedule are those of DeiT (Touvron et
al., 2021) without mixup, for labels that are tokens cannot be mixed.
"""

from cv_jax import config


def get_config(arg=""):
    dataset, options = config.parse_argument(arg, model="image_transformer_ti")
    c = config.default(dataset, options["model"])
    c.optim.weight_decay = 0.05
    c.optim.rules = (".*(bias|scale|pos_embed|embedding): decay=0",)
    if dataset == "imagenet2012":
        c.model.vocab_size = 1003
        c.batch_size = 1024
        c.total_epochs = 300.0
        c.augment = "inception_crop(224, method='bicubic')|flip"
        c.eval_preprocess = "resize_small(256, 'bicubic')|central_crop(224)"
        c.optim.learning_rate = 1e-3
        c.schedule.warmup_epochs = 5.0
        c.schedule.end_factor = 0.01
        c.log.every_steps = 100
        return c
    c.batch_size = 32
    c.model.patch_size = 8
    c.model.width = 96
    c.model.depth = 4
    c.model.decoder_depth = 2
    c.total_epochs = 20.0 if dataset == "digits" else 60.0
    c.augment = "pad_crop(4)|flip" if dataset == "cifar10" else "pad_crop(1)"
    c.optim.learning_rate = 1e-3
    c.optim.b2 = 0.98
    c.optim.clip_norm = 1.0
    c.schedule.warmup_epochs = 1.0
    c.eval.every_epochs = 5.0
    c.checkpoint.every_epochs = 10.0
    return c
