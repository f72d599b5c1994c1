"""Stack of blocks: scanned, unrolled and rematerialised are equal; stochastic depth."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src.ad_checkpoint import saved_residuals
from quick import quick_jit
from random_variables import random_variables
from slow import slow_except

from cv_jax import models
from cv_jax.models import encoder
from cv_jax.models.encoder import POLICIES, stack_blocks, unstack_blocks
from cv_jax.models.layers import drop_path

IMAGE = np.random.default_rng(0).standard_normal((2, 16, 16, 3)).astype(np.float32)
FIELDS = dict(
    image_size=16,
    patch_size=8,
    width=16,
    depth=3,
    num_heads=2,
    num_classes=5,
    layer_scale=0.5,
    registers=1,
    attention_weights=True,
)


def build(name="vit_ti16", **fields):
    return models.create(name, **{**FIELDS, **fields})


@pytest.fixture(scope="module")
def params():
    return random_variables(build(), IMAGE)["params"]


def loss_and_gradients(model, params):
    @quick_jit
    def run(params):
        def loss(params):
            logits, features = model.apply({"params": params}, IMAGE, train=True)
            return jnp.sum(jnp.sin(logits)), (logits, features)

        return jax.value_and_grad(loss, has_aux=True)(params)

    (_, aux), grads = run(params)
    return aux, grads


def assert_close(a, b):
    """Compare up to rounding, relative to the largest value of each array."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=0, atol=1e-5 * max(float(jnp.abs(y).max()), 1e-3))


@pytest.fixture(scope="module")
def plain(params):
    return loss_and_gradients(build(), params)


@pytest.mark.parametrize("scan", [False, True], ids=["unrolled", "scanned"])
@pytest.mark.parametrize("policy", slow_except(POLICIES, "full", "mlp"))
def test_scan_and_remat_change_nothing(scan, policy, params, plain):
    model = build(scan_layers=scan, remat_policy=policy)
    (logits, features), grads = loss_and_gradients(model, stack_blocks(params) if scan else params)
    (plain_logits, plain_features), plain_grads = plain
    assert list(features) == list(plain_features)
    assert_close(logits, plain_logits)
    assert_close(dict(features), dict(plain_features))
    assert_close(unstack_blocks(grads) if scan else grads, plain_grads)


@pytest.mark.parametrize("scan", [False, True], ids=["unrolled", "scanned"])
def test_the_policy_mlp_keeps_one_wide_array_of_each_block(scan, params):
    """Of the arrays as wide as the hidden layer, the output of the first product is kept."""

    def wide(policy):
        model = build(scan_layers=scan, remat_policy=policy, mlp_ratio=5.0, depth=2)
        variables = jax.eval_shape(model.init, jax.random.key(0), IMAGE)

        def loss(variables):
            return jnp.sum(jnp.sin(model.apply(variables, IMAGE, train=True)[0]))

        kept = saved_residuals(loss, variables)
        blocks = 1 if scan else 2  # scanned: one array with an axis of the depth
        shapes = [aval.shape for aval, source in kept if "argument" not in source]
        tokens = model.prefix_tokens() + 4
        hidden = [shape for shape in shapes if shape[-2:] == (tokens, 5 * model.width)]
        return len(hidden) / blocks

    assert wide("none") == 4
    assert wide("mlp") == 1


def test_dropout_has_the_same_masks_under_every_policy(params):
    def logits(policy):
        model = build(remat_policy=policy, dropout_rate=0.5)
        rngs = {"dropout": jax.random.key(3)}
        return model.apply({"params": params}, IMAGE, train=True, rngs=rngs)[0]

    assert_close(logits("mlp"), logits("none"))


def test_scanned_parameters_are_those_of_the_scanned_model(params):
    shapes = jax.eval_shape(build(scan_layers=True).init, jax.random.key(0), IMAGE)["params"]
    stacked = stack_blocks(params)
    assert jax.tree.map(jnp.shape, stacked) == jax.tree.map(jnp.shape, shapes)
    assert stacked["blocks"]["norm1"]["scale"].shape == (3, 16)


def test_conversion_round_trip_is_exact(params):
    back = unstack_blocks(stack_blocks(params))
    assert jax.tree.structure(back) == jax.tree.structure(params)
    for x, y in zip(jax.tree.leaves(back), jax.tree.leaves(params), strict=True):
        np.testing.assert_array_equal(x, y)


def test_conversion_finds_blocks_at_any_depth_and_by_name():
    tree = {"encoder": {f"blocks_{i}": {"w": np.full(2, i)} for i in range(11)}, "norm": np.ones(1)}
    stacked = stack_blocks(tree)
    np.testing.assert_array_equal(stacked["encoder"]["blocks"]["w"][:, 0], np.arange(11))
    np.testing.assert_array_equal(unstack_blocks(stacked)["encoder"]["blocks_10"]["w"], [10, 10])
    assert stack_blocks(tree, "decoder_blocks").keys() == tree.keys()
    assert "blocks_10" in stack_blocks(tree, "decoder_blocks")["encoder"]


def test_blocks_are_initialised_apart_when_scanned():
    variables = quick_jit(build(scan_layers=True, depth=2).init)(jax.random.key(0), IMAGE)
    kernel = variables["params"]["blocks"]["attn"]["qkv"]["kernel"]
    assert not np.array_equal(kernel[0], kernel[1])


@pytest.mark.parametrize("scan", [False, True], ids=["unrolled", "scanned"])
def test_stochastic_depth_acts_in_training_only(scan, params):
    model = build(scan_layers=scan, drop_path_rate=0.9)
    variables = {"params": stack_blocks(params) if scan else params}

    @functools.partial(quick_jit, static_argnums=0)
    def run(train, seed):
        rngs = {"dropout": jax.random.key(seed)}
        return dict(model.apply(variables, IMAGE, train=train, rngs=rngs)[1])

    still, first, second = run(False, 0), run(True, 0), run(True, 1)
    # The first block's rate is 0; the last's is 0.9.
    np.testing.assert_allclose(first["blocks_0"], still["blocks_0"], atol=1e-5)
    assert not np.allclose(first["blocks_2"], second["blocks_2"], atol=1e-3)


def test_drop_path_drops_whole_examples_and_keeps_the_mean():
    x = jnp.ones((4000, 2, 3))
    y = np.asarray(drop_path(jax.random.key(0), x, 0.25))
    assert set(np.unique(y)) == {np.float32(0), np.float32(1 / 0.75)}
    assert (y == y[:, :1, :1]).all()
    # Four standard deviations of the mean of 4,000 such examples.
    assert y.mean() == pytest.approx(1.0, abs=4 * np.sqrt(0.25 / 0.75 / 4000))


def test_scanned_rates_are_float32_for_bfloat16_tokens(monkeypatch):
    """In bfloat16 a block with a rate of 0.002 would never drop: its uniform draws have 7 bits."""
    seen = []

    def record(key, x, rate):
        seen.append(rate)
        return drop_path(key, x, rate)

    monkeypatch.setattr(encoder, "drop_path", record)
    model = build(scan_layers=True, drop_path_rate=0.004, dtype="bfloat16")
    rngs = {name: jax.random.key(0) for name in ("params", "dropout")}
    jax.eval_shape(lambda: model.init(rngs, IMAGE, train=True))
    assert seen
    assert {rate.dtype for rate in seen} == {jnp.dtype("float32")}
