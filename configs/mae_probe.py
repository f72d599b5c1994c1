"""Linear probe of a masked autoencoder's encoder (He et al., 2022, appendix A.1).

    python launch.py --config configs/mae_probe.py:imagenet2012[,model=vit_l16] --config.init_from=W
    python launch.py --config configs/mae_probe.py[:DATASET] --config.init_from=RUN

W and RUN as in `configs/mae_finetune.py`. Only a classifier is trained, on the class token
normalised by the batch; the encoder stays as it is, bit for bit.

Recipe of the paper and of the authors' release: LARS, batch 16,384, learning rate 0.1 for every 256
examples of a batch, cosine to 0 after 10 epochs of warm-up, no weight decay, 90 epochs (B) or 50;
random-resized crops, mirrored.
"""

from cv_jax import config


def get_config(arg=""):
    dataset, options = config.parse_argument(arg, model="vit_b16")
    c = config.default(dataset, options["model"])
    c.model.head_norm = True
    c.optim.name = "lars"
    c.optim.base_batch_size = 256
    c.optim.rules = ("head/.*: train", ".*: freeze")
    c.optim.learning_rate = 0.1
    if dataset == "imagenet2012":
        c.batch_size = 16384
        c.total_epochs = 90.0 if "_b" in c.model.name else 50.0
        c.augment = "inception_crop(224, method='bicubic')|flip"
        c.eval_preprocess = "resize_small(256, 'bicubic')|central_crop(224)"
        c.schedule.warmup_epochs = 10.0
        c.log.every_steps = 20
        return c
    # The encoder of configs/mae.py.
    c.batch_size = 128
    c.model.patch_size = 4
    c.model.width = 96
    c.model.depth = 6
    c.model.num_heads = 3
    c.total_epochs = 20.0
    c.augment = "pad_crop(4)|flip" if dataset == "cifar10" else "pad_crop(1)"
    c.optim.learning_rate = 2.0
    c.schedule.warmup_epochs = 2.0
    c.eval.every_epochs = 5.0
    c.checkpoint.every_epochs = 10.0
    return c
