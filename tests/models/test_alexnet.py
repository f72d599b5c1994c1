"""AlexNet: sizes, towers, initialisation."""

import jax
import numpy as np
import pytest
from quick import quick_jit

from cv_jax import models

SMALL = dict(channels=(8, 16, 12, 12, 8), fc_width=16, pool_size=2, num_classes=5)


def test_sizes_of_the_maps():
    """The paper's maps: 55, 27, 13 on a side, and 6 after the last pooling."""
    model = models.create("alexnet")
    _, features = jax.eval_shape(
        lambda: model.init_with_output(jax.random.key(0), *models.dummy_inputs("alexnet"))[0]
    )
    sides = {name: maps.shape[1:] for name, maps in features.items() if maps.ndim == 4}
    assert sides == {
        "conv1": (55, 55, 96),
        "pool1": (27, 27, 96),
        "conv2": (27, 27, 256),
        "pool2": (13, 13, 256),
        "conv3": (13, 13, 384),
        "conv4": (13, 13, 384),
        "conv5": (13, 13, 256),
        "pool5": (6, 6, 256),
    }


def test_the_last_padded_row_is_never_read():
    """224 pixels padded by 2 are 228, of which the 55 filters of stride 4 reach 227."""
    assert (55 - 1) * 4 + 11 == 227
    assert (228 - 11) // 4 + 1 == 55


def test_towers_are_separate():
    """The second half of conv 2 ignores the first half of conv 1; conv 3 reads both towers."""
    model = models.create("alexnet", **SMALL, lrn=False)
    x = np.random.default_rng(0).standard_normal((1, 63, 63, 3)).astype(np.float32)
    variables = quick_jit(model.init)(jax.random.key(0), x)
    apply = quick_jit(model.apply)
    _, before = apply(variables, x)
    kernel = variables["params"]["features_0"]["kernel"]
    variables["params"]["features_0"]["kernel"] = kernel.at[..., :4].add(0.3)
    _, after = apply(variables, x)
    np.testing.assert_array_equal(before["conv2"][..., 8:], after["conv2"][..., 8:])
    assert not np.array_equal(before["conv2"][..., :8], after["conv2"][..., :8])
    assert not np.array_equal(before["conv3"][..., 6:], after["conv3"][..., 6:])


def test_the_papers_initialisation():
    model = models.create("alexnet", **SMALL)
    params = quick_jit(model.init)(jax.random.key(0), np.zeros((1, 63, 63, 3)))["params"]
    kernels = np.concatenate([layer["kernel"].ravel() for layer in params.values()])
    np.testing.assert_allclose(kernels.std(), 0.01, rtol=0.03)
    ones = {name for name, layer in params.items() if (layer["bias"] == 1).all()}
    zeros = {name for name, layer in params.items() if (layer["bias"] == 0).all()}
    assert ones == {"features_3", "features_8", "features_10", "classifier_1", "classifier_4"}
    assert zeros == {"features_0", "features_6", "head"}


@pytest.mark.parametrize(
    ("kernel_init", "std"), [("uniform", (1 / (3 * 576)) ** 0.5), ("he", (2 / 576) ** 0.5)]
)
def test_initialisation_for_any_width(kernel_init, std):
    """Conv 4 has 3·3·64 inputs: the half of its tower of 128 channels."""
    model = models.create("alexnet", **{**SMALL, "channels": (8, 16, 128, 64, 8)})
    params = quick_jit(model.clone(kernel_init=kernel_init).init)(
        jax.random.key(0), np.zeros((1, 63, 63, 3))
    )["params"]
    np.testing.assert_allclose(params["features_8"]["kernel"].std(), std, rtol=0.02)
    assert all((layer["bias"] == 0).all() for layer in params.values())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(channels=(8, 8, 8)), "channels must be 5 numbers, got 3"),
        (dict(groups=(1, 3, 1, 1, 1)), r"groups 3 of conv 2 does not divide .*\(96 in, 256 out\)"),
        (dict(kernel_init="zeros"), "unknown kernel_init 'zeros'; allowed: normal, uniform, he"),
        (dict(dropout_rate=-0.1), "dropout_rate must lie"),
    ],
)
def test_mistakes_are_named(fields, message):
    with pytest.raises(ValueError, match=message):
        models.create("alexnet", **fields).check()
