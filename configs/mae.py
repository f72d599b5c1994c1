"""Masked autoencoder (He et al., 2022): pre-training without labels.

    python launch.py --config configs/mae.py:imagenet2012[,model=mae_vit_l16]   the paper's recipe
    python launch.py --config configs/mae.py[:DATASET]                          32×32 images, small

Recipe of the paper, appendix A.1: AdamW (0.9, 0.95), batch 4096, learning rate 1.5e-4 for every 256
examples of a batch, cosine to 0 after 40 epochs of warm-up, weight decay 0.05 (none on biases and
norms, as in the authors' code), 800 epochs; random-resized crops of at least a fifth of the area,
mirrored. The loss is that of pixels standardised by patch. There is no accuracy: test lines hold
the loss on the test images, with the same patches removed each time.
"""

from cv_jax import config


def get_config(arg=""):
    dataset, options = config.parse_argument(arg, model="mae_vit_b16")
    c = config.default(dataset, options["model"])
    c.optim.b2 = 0.95
    c.optim.weight_decay = 0.05
    c.optim.rules = (".*(bias|scale): decay=0",)
    if dataset == "imagenet2012":
        c.batch_size = 4096
        c.total_epochs = 800.0
        c.augment = "inception_crop(224, 0.2, 1.0, method='bicubic')|flip"
        c.eval_preprocess = "resize_small(256, 'bicubic')|central_crop(224)"
        c.optim.learning_rate = 1.5e-4
        c.optim.base_batch_size = 256
        c.schedule.warmup_epochs = 40.0
        c.log.every_steps = 100
        c.eval.every_epochs = 20.0
        return c
    c.batch_size = 64
    c.model.patch_size = 4
    c.model.width = 96
    c.model.depth = 6
    c.model.num_heads = 3
    c.model.decoder_width = 64
    c.model.decoder_depth = 2
    c.model.decoder_num_heads = 4
    c.total_epochs = 40.0 if dataset == "digits" else 100.0
    c.augment = "pad_crop(4)|flip" if dataset == "cifar10" else "pad_crop(3)"
    c.optim.learning_rate = 1e-3
    c.schedule.warmup_epochs = 2.0
    c.eval.every_epochs = 10.0
    c.checkpoint.every_epochs = 20.0
    return c
