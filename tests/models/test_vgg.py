"""VGG: the convolutions of Table 1, torchvision's names, initialisation."""

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from quick import quick_jit

from cv_jax import models


def params_of(name, **fields):
    model = models.create(name, **fields)
    shapes = jax.eval_shape(model.init, jax.random.key(0), *models.dummy_inputs(name))
    return {"/".join(path): leaf.shape for path, leaf in flatten_dict(shapes["params"]).items()}


@pytest.mark.parametrize(
    ("name", "indices"),
    [
        ("vgg11", (0, 3, 6, 8, 11, 13, 16, 18)),
        ("vgg16", (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)),
        ("vgg11_bn", (0, 4, 8, 11, 15, 18, 22, 25)),
    ],
)
def test_torchvision_names(name, indices):
    kernels = {path: shape for path, shape in params_of(name).items() if path.endswith("kernel")}
    names = [f"features_{i}" for i in indices] + ["classifier_0", "classifier_3", "head"]
    assert set(kernels) == {f"{name}/kernel" for name in names}
    assert kernels["classifier_0/kernel"] == (7 * 7 * 512, 4096)


def test_column_c_has_three_pointwise_filters():
    """Table 1: 1×1 convolutions at the end of stages 3, 4 and 5."""
    kernels = [s for path, s in params_of("vgg16_c").items() if path.startswith("features")]
    pointwise = [shape for shape in kernels if shape[:2] == (1, 1)]
    assert sorted(pointwise) == [(1, 1, 256, 256), (1, 1, 512, 512), (1, 1, 512, 512)]
    assert sum(shape[:2] == (3, 3) for shape in kernels if len(shape) == 4) == 10


def test_response_norm_costs_no_parameters():
    assert sorted(params_of("vgg11_lrn").values()) == sorted(params_of("vgg11").values())


def test_features_follow_the_layers():
    model = models.create("vgg11_lrn", widths=(4, 4, 4, 4, 4), fc_width=8)
    x = jax.ShapeDtypeStruct((1, 64, 64, 3), "float32")
    (_, features), _ = jax.eval_shape(model.init_with_output, jax.random.key(0), x)
    expected = "conv1_1 lrn pool1 conv2_1 pool2 conv3_1 conv3_2 pool3 conv4_1 conv4_2 pool4 "
    expected += "conv5_1 conv5_2 pool5 fc1 fc2 pre_logits"
    assert list(features) == expected.split()


@pytest.mark.parametrize(("kernel_init", "std"), [("he", (2 / (9 * 64)) ** 0.5), ("glorot", None)])
def test_initialisation(kernel_init, std):
    model = models.create(
        "vgg11", widths=(64, 8, 8, 8, 8), fc_width=64, pool_size=1, kernel_init=kernel_init
    )
    x = np.zeros((1, 32, 32, 64), np.float32)
    params = quick_jit(model.init)(jax.random.key(0), x)["params"]
    std = std or (2 / (9 * 64 + 9 * 64)) ** 0.5
    np.testing.assert_allclose(params["features_0"]["kernel"].std(), std, rtol=0.02)
    fc = (2 / 64 if kernel_init == "he" else 2 / (64 + 64)) ** 0.5
    np.testing.assert_allclose(params["classifier_3"]["kernel"].std(), fc, rtol=0.05)
    assert all((params[name]["bias"] == 0).all() for name in params)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(norm="layer"), "unknown norm 'layer'; allowed: none, batch, lrn"),
        (dict(kernel_init="zeros"), "unknown kernel_init 'zeros'; allowed: he, glorot"),
        (dict(widths=(64, 64)), "equal lengths, got 5 and 2"),
        (dict(dropout_rate=1.5), r"dropout_rate must lie in \[0, 1\), got 1.5"),
        (dict(fc_width=0), "fc_width must be at least 1, got 0"),
    ],
)
def test_mistakes_are_named(fields, message):
    with pytest.raises(ValueError, match=message):
        models.create("vgg16", **fields).check()
