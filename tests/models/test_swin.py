"""Swin: sizes, features, shifts, other windows, mistakes. tests/golden has parity tests."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from quick import quick_jit
from random_variables import random_variables

from cv_jax import models
from cv_jax.models import swin, window_attention
from cv_jax.models.windows import resize_bias_table

SMALL = dict(width=8, depths=(2, 2), num_heads=(2, 4), window_size=3, num_classes=5)


def image(height, width, batch=2):
    rng = np.random.default_rng(0)
    return rng.standard_normal((batch, height, width, 3)).astype(np.float32)


def build(version=1, **fields):
    name = "swin_t" if version == 1 else "swinv2_t"
    return models.create(name, **{**SMALL, **fields})


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("rule", ["shrink", "pad"])
@pytest.mark.parametrize("size", [(24, 24), (28, 44), (13, 10), (4, 30), (1, 1)])
def test_any_image_size(version, rule, size):
    model = build(version, window_rule=rule, attention_weights=True)
    shapes = jax.eval_shape(lambda: jnp.zeros((2, *size, 3)))
    variables = jax.eval_shape(model.init, jax.random.key(0), shapes)
    logits, features = jax.eval_shape(model.apply, variables, shapes)
    rows, columns = -(-size[0] // 4), -(-size[1] // 4)
    assert logits.shape == (2, 5)
    assert features["layers_0/blocks_1"].shape == (2, rows, columns, 8)
    rows, columns = -(-rows // 2), -(-columns // 2)
    assert features["layers_1/downsample"].shape == (2, rows, columns, 16)
    assert features["norm"].shape == (2, rows, columns, 16)
    assert features["pre_logits"].shape == (2, 16)
    windows, tokens = features["layers_1/blocks_0/attention"].shape[1:4:2]
    assert windows * tokens >= rows * columns


def test_features_stand_in_forward_order():
    model = build()
    x = image(24, 24)
    _, features = jax.eval_shape(model.apply, jax.eval_shape(model.init, jax.random.key(0), x), x)
    assert list(features) == [
        "embed",
        "layers_0/blocks_0",
        "layers_0/blocks_1",
        "layers_1/downsample",
        "layers_1/blocks_0",
        "layers_1/blocks_1",
        "norm",
        "pre_logits",
    ]


@pytest.mark.parametrize("version", [1, 2])
def test_blocks_read_their_window_and_shifted_blocks_the_neighbours(version):
    """The first block mixes tokens inside windows; the second also between windows, but not between
    opposite edges of the image."""
    model = build(version, depths=(2,), num_heads=(2,), window_size=4)
    x = image(32, 32, batch=1)  # 8x8 tokens, 2x2 windows, shift 2
    variables = random_variables(model, x)

    @quick_jit
    def features(x):
        found = model.apply(variables, x)[1]
        return found["layers_0/blocks_0"], found["layers_0/blocks_1"]

    poked = x.copy()
    poked[0, 0, 0] += 10.0
    before, moved = features(x), features(poked)
    first, second = (
        np.abs(np.asarray(a - b))[0].max(axis=-1) > 1e-5 for a, b in zip(before, moved, strict=True)
    )
    window = np.zeros((8, 8), bool)
    window[:4, :4] = True
    np.testing.assert_array_equal(first, window)
    # Shifted windows of 4 are 0…1, 2…5, 6…7 on each axis; only the roll connects the outer two. The
    # output of the first block, 0…3, overlaps the first two.
    reached = np.zeros((8, 8), bool)
    reached[:6, :6] = True
    np.testing.assert_array_equal(second, reached)


def test_version_2_starts_as_the_identity_in_every_block():
    """The initial scale of its norms is zero."""
    model = build(2, depths=(1, 1))
    x = image(24, 24)
    variables = quick_jit(model.init)(jax.random.key(0), x)
    _, features = quick_jit(model.apply)(variables, x)
    np.testing.assert_array_equal(features["layers_0/blocks_0"], features["embed"])
    np.testing.assert_array_equal(features["layers_1/blocks_0"], features["layers_1/downsample"])


def test_version_2_has_finite_gradients_where_padding_makes_keys_zero():
    model = build(2, depths=(1, 2), window_rule="pad")
    x = image(16, 20)
    variables = random_variables(model, x)
    grads = quick_jit(jax.grad(lambda v: jnp.sum(jnp.sin(model.apply(v, x)[0]))))(variables)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))


def test_padding_does_not_change_a_map_that_windows_divide():
    """Both rules are equal if no map is padded and no window shrinks."""
    x = image(48, 48)  # 12x12 and 6x6 tokens
    variables = random_variables(build(), x)
    run = lambda rule: quick_jit(build(window_rule=rule).apply)(variables, x)[0]  # noqa: E731
    np.testing.assert_allclose(run("shrink"), run("pad"), atol=1e-6)


def test_stage_windows():
    model = build(window_size=7)
    assert swin.stage_windows(model, (64, 40)) == [(7, 7), (7, 5)]
    assert swin.stage_windows(build(window_size=7, window_rule="pad"), (64, 40)) == [(7, 7)] * 2


@pytest.mark.parametrize("method", ["bicubic", "geometric"])
def test_resize_for_another_window(method):
    old, new = build(window_size=3), build(window_size=6)
    params = random_variables(old, image(48, 48))["params"]
    resized = swin.resize(params, old, (48, 48), new, (96, 80), method)
    jax.eval_shape(new.apply, {"params": resized}, image(96, 80))
    for stage, window in enumerate([(6, 6), (6, 6)]):
        name = "relative_position_bias_table"
        before = params[f"layers_{stage}"]["blocks_1"]["attn"][name]
        after = resized[f"layers_{stage}"]["blocks_1"]["attn"][name]
        np.testing.assert_array_equal(after, resize_bias_table(before, (3, 3), window, method))
    assert params["layers_0"]["blocks_0"]["attn"]["relative_position_bias_table"].shape == (25, 2)


def test_version_2_takes_another_window_without_resampling():
    x = image(48, 48)
    variables = random_variables(build(2), x)
    other = build(2, window_size=6, pretrained_windows=(3,))
    assert jax.eval_shape(other.apply, variables, x)[0].shape == (2, 5)


def test_remat_changes_nothing():
    x = image(24, 24)
    variables = random_variables(build(depths=(1, 2)), x)

    def run(policy):
        model = build(depths=(1, 2), remat_policy=policy)
        return quick_jit(jax.value_and_grad(lambda v: jnp.sum(jnp.sin(model.apply(v, x)[0]))))(
            variables
        )

    value, grads = run("none")
    for policy in ("full", "mlp"):
        other, other_grads = run(policy)
        np.testing.assert_allclose(value, other, rtol=1e-5)
        for a, b in zip(jax.tree.leaves(grads), jax.tree.leaves(other_grads), strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * max(np.abs(b).max(), 1e-3))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(version=3), "unknown version 3; allowed: 1, 2"),
        (dict(window_rule="crop"), "unknown window_rule 'crop'; allowed: shrink, pad"),
        (dict(num_heads=(2,)), "num_heads .* needs one value for each of depths"),
        (dict(num_heads=(3, 4)), "num_heads 3 does not divide width 8 of stage 0"),
        (dict(pretrained_windows=(1, 2, 3)), "pretrained_windows .* needs one value"),
        (dict(window_size=0), "window_size must be at least 1"),
        (dict(drop_path_rate=-0.1), "drop_path_rate must lie in"),
        (dict(remat_policy="some"), "unknown remat_policy"),
    ],
)
def test_mistakes_are_one_line(fields, message):
    with pytest.raises(ValueError, match=message) as error:
        models.create("swin_t", **{**SMALL, **fields}).check()
    assert "\n" not in str(error.value)


def test_version_2_scales_bfloat16_vectors_to_length_one():
    """Only the rounding of single elements is left, which averages out."""
    x = jnp.asarray(np.random.default_rng(0).normal(size=(500, 64)), jnp.bfloat16)
    unit = window_attention._unit(x)
    assert unit.dtype == jnp.bfloat16
    lengths = np.linalg.norm(np.asarray(unit, np.float64), axis=1)
    assert np.sqrt(np.mean((lengths - 1) ** 2)) < 5e-4
