"""Shared by the tests of evaluations: tiny experiments on the embedded digits."""

import numpy as np
import pytest
from sklearn.datasets import load_digits
from tiny_configs import MAE

MLP = {"model.widths": "16,12", "mesh.devices": 1, "batch_size": 100, "total_steps": 50}


@pytest.fixture(scope="session")
def build(load_config):
    """`build(eval.extra, config name, argument, **overrides)`: the experiment of a tiny model."""
    from cv_jax.training import experiment

    def build(extra="", name="mlp", argument="", **overrides):
        small = {"mlp": MLP, "mae": MAE}.get(name, {})
        values = {**small, "eval.extra": extra, **overrides}
        return experiment.build(load_config(name, values, argument))

    return build


@pytest.fixture(scope="session")
def mistake_of(build):
    """`mistake_of(…)`: the one-line message of the `InputError` that `build(…)` raises."""
    from cv_jax.errors import InputError

    def mistake_of(*args, **overrides):
        with pytest.raises(InputError) as caught:
            build(*args, **overrides)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    return mistake_of


@pytest.fixture(scope="session")
def halves():
    """Features and labels of noisy digits, 600 to train a probe and 400 to score."""
    x, y = load_digits(return_X_y=True)
    x = (x + np.random.default_rng(0).normal(scale=4, size=x.shape)).astype(np.float32)
    return (x[:600], y[:600]), (x[600:1000], y[600:1000])


@pytest.fixture(scope="session")
def features_of():
    """`features_of(parts, variables, images, name)`: features [N, D] by a direct call."""

    def features_of(parts, variables, images, name):
        pixels = (images.cached[0].astype(np.float32) / 255 - 0.305) / 0.376  # mean, std of digits
        return np.asarray(parts.model.apply(variables, pixels)[1][name])

    return features_of
