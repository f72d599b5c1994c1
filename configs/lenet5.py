"""lenet5."""

from cv_jax import config


def get_config(arg=""):
    dataset, options = config.parse_argument(arg, model="lenet5")
    return config.default(dataset, options["model"])
