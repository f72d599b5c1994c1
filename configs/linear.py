"""linear."""

from cv_jax import config


def get_config(arg=""):
    dataset, options = config.parse_argument(arg, model="linear")
    return config.default(dataset, options["model"])
