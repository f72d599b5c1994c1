"""vit_ti16."""

from cv_jax import config


def get_config(arg=""):
    dataset, options = config.parse_argument(arg, model="vit_ti16")
    return config.default(dataset, options["model"])
