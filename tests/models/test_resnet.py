"""Residual networks: shortcuts against NumPy, strides, fields."""

import functools

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from quick import quick_jit

from cv_jax import models
from cv_jax.models.resnet import pad_shortcut

SMALL = dict(stage_sizes=(1, 2), widths=(8, 16), stem_width=8, num_classes=5)


def shapes(name, image=(32, 32, 3), **fields):
    """Return (parameter shapes, feature shapes) of a small network."""
    model = models.create(name, **{**SMALL, **fields})
    x = jax.ShapeDtypeStruct((2, *image), "float32")
    (_, features), variables = jax.eval_shape(model.init_with_output, jax.random.key(0), x)
    return jax.tree.map(lambda leaf: leaf.shape, (variables["params"], features))


@settings(deadline=None, max_examples=15)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 7),
    st.integers(1, 7),
    st.integers(1, 3),
    st.integers(0, 4),
    st.integers(1, 3),
)
def test_shortcut_a(seed, height, width, channels, extra, stride):
    x = np.random.default_rng(seed).standard_normal((2, height, width, channels))
    x = x.astype(np.float32)
    rows, columns = range(0, height, stride), range(0, width, stride)
    expected = np.zeros((2, len(rows), len(columns), channels + extra), np.float32)
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            expected[:, i, j, :channels] = x[:, row, column]
    np.testing.assert_array_equal(pad_shortcut(x, channels + extra, stride), expected)


def test_shortcut_a_cannot_drop_channels():
    with pytest.raises(ValueError, match="shortcut A cannot reduce 4 channels to 2"):
        pad_shortcut(np.ones((1, 2, 2, 4)), 2, 1)


@pytest.mark.parametrize(
    ("shortcut", "projected"),
    [
        ("A", set()),
        ("B", {"layer2_0"}),
        ("C", {"layer1_0", "layer2_0", "layer2_1"}),
        ("none", set()),
    ],
)
def test_which_blocks_project(shortcut, projected):
    params, _ = shapes("resnet18", shortcut=shortcut)
    assert {name for name, block in params.items() if "downsample_0" in block} == projected


def test_odd_sizes_agree_between_branch_and_every_shortcut():
    for shortcut in "ABC":
        _, features = shapes("resnet18", image=(37, 51, 3), shortcut=shortcut)
        assert features["layer2_0"] == (2, 5, 7, 16)


def test_one_block_by_hand():
    """Shortcut A, stride 2, 8 → 16 channels: relu(A(x) + bn2(conv2(relu(bn1(conv1(x))))))."""
    model = models.create("resnet8_cifar", num_classes=0, stage_sizes=(1, 1), widths=(2, 4))
    model = model.clone(stem_width=2)
    x = np.random.default_rng(0).standard_normal((2, 6, 6, 1)).astype(np.float32)
    variables = quick_jit(model.init)(jax.random.key(0), x)
    _, features = quick_jit(model.apply)(variables, x)
    params = variables["params"]["layer2_0"]

    def conv(x, kernel, stride):
        padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        size = -(-x.shape[1] // stride)
        out = np.zeros((len(x), size, size, kernel.shape[-1]))
        for i in range(size):
            for j in range(size):
                window = padded[:, stride * i : stride * i + 3, stride * j : stride * j + 3]
                out[:, i, j] = np.einsum("bhwc,hwco->bo", window, kernel)
        return out / np.sqrt(1 + 1e-5)  # fresh running statistics: mean 0, variance 1

    before = np.asarray(features["layer1_0"], np.float64)
    y = np.maximum(conv(before, params["conv1"]["kernel"], 2), 0)
    y = conv(y, params["conv2"]["kernel"], 1)
    y[..., :2] += before[:, ::2, ::2]
    np.testing.assert_allclose(features["layer2_0"], np.maximum(y, 0), rtol=1e-4, atol=1e-5)


def test_the_stride_of_a_bottleneck():
    """v1 halves the resolution in the first 1×1, v1.5 in the 3×3: the same parameters, and in v1 a
    quarter of the products of the first 1×1."""
    cards = {name: models.card(name) for name in ("resnet50", "resnet50_v1")}
    assert cards["resnet50"].parameters == cards["resnet50_v1"].parameters
    # The first 1×1 of stages 2 to 4: input · output channels at full minus at half resolution. No
    # other convolution differs, because the 3×3 has the low output resolution in both.
    saved = sum(
        channels * 2 * width * (side**2 - (side // 2) ** 2)
        for channels, width, side in ((256, 64, 56), (512, 128, 28), (1024, 256, 14))
    )
    assert cards["resnet50"].multiply_adds - cards["resnet50_v1"].multiply_adds == saved


@pytest.mark.parametrize("preact", [False, True])
@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_zero_initialised_branches_leave_the_shortcut(name, preact):
    model = models.create(name, **SMALL, preact=preact, zero_init_residual=True)
    x = np.random.default_rng(0).standard_normal((2, 32, 32, 3)).astype(np.float32)
    variables = quick_jit(model.init)(jax.random.key(0), x)
    _, features = quick_jit(model.apply)(variables, x)
    np.testing.assert_array_equal(features["layer2_1"], features["layer2_0"])
    assert np.abs(features["layer2_0"]).max() > 0


def test_plain_nets_are_resnets_without_shortcuts():
    plain, _ = shapes("plain18")
    residual, _ = shapes("resnet18", shortcut="A")
    assert plain == residual
    with pytest.raises(ValueError, match="need a shortcut"):
        shapes("plain18", zero_init_residual=True)


def test_pre_activation_names_and_order():
    """As in timm's resnetv2: a norm after the last block, none in the stem and the projections."""
    params, features = shapes("resnet50_preact")
    assert "bn1" not in params
    assert params["norm"]["scale"] == (64,)
    assert params["layer2_0"]["bn1"]["scale"] == (32,)
    assert "downsample_1" not in params["layer2_0"]
    assert list(features)[-2:] == ["norm", "pre_logits"]


def test_remat_changes_nothing():
    image = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype(np.float32)

    def gradients(policy):
        small = dict(stage_sizes=(1, 1), widths=(4, 4), stem_width=4)
        fields = dict(small, drop_path_rate=0.3, remat_policy=policy)
        model = models.create("resnet8_cifar", **fields)
        variables = quick_jit(model.init)(jax.random.key(0), image)

        def loss(params):
            rngs = {"dropout": jax.random.key(1)}
            everything = {**variables, "params": params}
            options = dict(train=True, rngs=rngs, mutable=["batch_stats"])
            (logits, _), state = model.apply(everything, image, **options)
            return (logits**2).sum(), state

        return quick_jit(jax.grad(loss, has_aux=True))(variables["params"])

    expected = gradients("none")
    for policy in ("full", "dots_no_batch"):
        close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6)
        jax.tree.map(close, gradients(policy), expected)


def test_groups_and_width_per_group():
    """ResNeXt 32×4d and wide ResNet, Table 1 of either paper: inner widths at stage 1 and 4."""
    full = dict(stage_sizes=(1, 1, 1, 1), widths=(64, 128, 256, 512), stem_width=64)
    params, _ = shapes("resnet50", **full, groups=32, width_per_group=4)
    assert params["layer1_0"]["conv2"]["kernel"] == (3, 3, 4, 128)
    assert params["layer4_0"]["conv2"]["kernel"] == (3, 3, 32, 1024)
    params, _ = shapes("resnet50", **full, width_per_group=128)
    assert params["layer1_0"]["conv2"]["kernel"] == (3, 3, 128, 128)
    assert params["layer4_0"]["conv3"]["kernel"] == (1, 1, 1024, 2048)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(shortcut="D"), "unknown shortcut 'D'; allowed: A, B, C, none"),
        (dict(block="wide"), "unknown block 'wide'; allowed: basic, bottleneck"),
        (dict(stem="mnist"), "unknown stem 'mnist'"),
        (dict(stride_in="5x5"), "unknown stride_in '5x5'"),
        (dict(stage_sizes=(1, 1, 1)), "equal lengths, got 3 and 2"),
        (dict(stage_sizes=(1, 0)), "stage_sizes must be at least 1, got 1, 0"),
        (dict(drop_path_rate=1.0), r"drop_path_rate must lie in \[0, 1\), got 1.0"),
        (dict(block="basic", groups=2), "belong to block 'bottleneck'"),
        (dict(width_per_group=5), "no whole number of channels"),
    ],
)
def test_mistakes_are_named(fields, message):
    with pytest.raises(ValueError, match=message):
        models.create("resnet50", **{**SMALL, **fields}).check()
