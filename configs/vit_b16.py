"""ViT-B/16.

python launch.py --config configs/vit_b16.py
"""

from cv_jax import config


def get_config(arg=""):
    dataset, options = config.parse_argument(arg, model="vit_b16")
    c = config.default(dataset, options["model"])
    c.batch_size = 32
    c.total_epochs = 14.0
    c.augment = "pad_crop(3)" if dataset != "cifar10" else "pad_crop(4)|flip"
    c.optim.learning_rate = 2e-4
    c.optim.weight_decay = 0.05
    c.optim.b2 = 0.98
    c.optim.clip_norm = 1.0
    c.schedule.warmup_epochs = 1.0
    c.eval.every_epochs = 4.0
    c.checkpoint.every_epochs = 7.0
    return c
