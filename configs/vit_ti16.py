"""ViT-Ti/16 on small images: four patches of 16×16 pixels, 5.4 million parameters.

python launch.py --config configs/vit_ti16.py[:DATASET]    DATASET: digits (default), mnist, …
"""

from cv_jax import config


def get_config(arg=""):
    dataset, options = config.parse_argument(arg, model="vit_ti16")
    c = config.default(dataset, options["model"])
    c.batch_size = 32
    c.total_epochs = 20.0
    c.augment = "pad_crop(3)" if dataset != "cifar10" else "pad_crop(4)|flip"
    c.optim.learning_rate = 1e-3
    c.optim.weight_decay = 0.05
    c.optim.b2 = 0.98
    c.optim.clip_norm = 1.0
    c.schedule.warmup_epochs = 1.0
    c.eval.every_epochs = 5.0
    c.checkpoint.every_epochs = 10.0
    return c
