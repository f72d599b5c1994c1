"""Rules and transforms, compared with the computation that they must preserve."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from cv_jax.interop import tables, transforms
from cv_jax.interop.tables import Rule, fill_in, one

sizes = st.integers(1, 5)


def round_trip(transform, x):
    (ours,) = transform.load(x)
    (theirs,) = transform.export(ours)
    assert np.array_equal(theirs, x)
    return ours


@given(sizes, sizes, sizes, sizes)
def test_linear_after_flatten_sees_the_same_map(height, width, channels, out):
    rng = np.random.default_rng(0)
    image = rng.normal(size=(2, height, width, channels))
    weight = rng.normal(size=(out, channels * height * width))
    theirs = image.transpose(0, 3, 1, 2).reshape(2, -1) @ weight.T
    kernel = round_trip(transforms.linear_after_flatten(height, width), weight)
    np.testing.assert_allclose(image.reshape(2, -1) @ kernel, theirs, atol=1e-12)


@given(sizes, sizes, sizes, sizes)
def test_linear_from_conv_sees_the_same_map(height, width, channels, out):
    rng = np.random.default_rng(0)
    image = rng.normal(size=(2, height, width, channels))
    weight = rng.normal(size=(out, channels, height, width))
    theirs = np.einsum("bhwc,ochw->bo", image, weight)
    kernel = round_trip(transforms.linear_from_conv(height, width), weight)
    np.testing.assert_allclose(image.reshape(2, -1) @ kernel, theirs, atol=1e-12)


def test_conv_puts_every_weight_in_its_place():
    weight = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    kernel = round_trip(transforms.CONV, weight)
    for out, channel, row, column in np.ndindex(*weight.shape):
        assert kernel[row, column, channel, out] == weight[out, channel, row, column]


def test_numbers_are_filled_in_on_both_sides():
    rules = tables.batch_norm("layer{}.{}.bn{}", "layer{}_{}/bn{}")
    rules, unmatched = fill_in(
        rules, ["batch_stats/layer2_10/bn1/var", "params/layer2_x/bn1/scale"]
    )
    assert [(rule.theirs, rule.ours) for rule in rules] == [
        (("layer2.10.bn1.running_var",), ("batch_stats/layer2_10/bn1/var",))
    ]
    assert unmatched == ["params/layer2_x/bn1/scale"]


def test_a_rule_may_join_arrays():
    """One path finds a rule that fuses three projections of the reference into one array here."""
    fused = transforms.Transform(
        lambda q, k, v: (np.concatenate([q, k, v]),), lambda x: tuple(np.split(x, 3))
    )
    theirs = ("block{}.q", "block{}.k", "block{}.v")
    (rule,), unmatched = fill_in([Rule(theirs, ("b_{}/qkv",), fused)], ["b_7/qkv"])
    assert rule.theirs == ("block7.q", "block7.k", "block7.v")
    assert not unmatched
    parts = [np.full(2, i) for i in range(3)]
    (joined,) = rule.transform.load(*parts)
    assert joined.tolist() == [0, 0, 1, 1, 2, 2]
    assert all(map(np.array_equal, rule.transform.export(joined), parts))


def test_a_rule_for_several_paths_needs_all_of_them():
    stacked = transforms.Transform(lambda x: tuple(x), lambda *x: (np.stack(x),))
    rules = [Rule(("layers",), ("layer_0", "layer_1"), stacked), one("layer.{}", "layer_{}")]
    together, _ = fill_in(rules, ["layer_0", "layer_1"])
    assert [rule.ours for rule in together] == [("layer_0", "layer_1")]
    alone, _ = fill_in(rules, ["layer_0"])
    assert [rule.theirs for rule in alone] == [("layer.0",)]
