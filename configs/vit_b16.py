"""ViT-B/16."""

from cv_jax import config


def get_config(arg=""):
    dataset, options = config.parse_argument(arg, model="vit_b16")
    return config.default(dataset, options["model"])
