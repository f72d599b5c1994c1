"""mlp."""

from cv_jax import config


def get_config(arg=""):
    dataset, options = config.parse_argument(arg, model="mlp")
    return config.default(dataset, options["model"])
