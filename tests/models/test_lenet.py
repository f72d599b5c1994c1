"""LeNet-5 of 1998 part by part, against the paper and NumPy."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from quick import quick_jit

from cv_jax import models
from cv_jax.models.lenet import C3_INPUTS, SubSample, TableConv, rbf_codes, rbf_loss, squash

# Table I of the paper: row = map of S2, column = map of C3.
TABLE_I = (
    "X...XXX..XXXX.XX",
    "XX...XXX..XXXX.X",
    "XXX...XXX..X.XXX",
    ".XXX..XXXX..X.XX",
    "..XXX..XXXX.XX.X",
    "...XXX..XXXX.XXX",
)


def test_connection_table():
    for source, target in itertools.product(range(6), range(16)):
        assert (source in C3_INPUTS[target]) == (TABLE_I[source][target] == "X")


def test_parameters_of_each_layer():
    """Section II.B of the paper."""
    model = models.create("lenet5_1998")
    shapes = jax.eval_shape(model.init, jax.random.key(0), *models.dummy_inputs("lenet5_1998"))
    counts = {
        name: sum(leaf.size for leaf in jax.tree.leaves(layer))
        for name, layer in shapes["params"].items()
    }
    assert counts == {"c1": 156, "s2": 12, "c3": 1516, "s4": 32, "c5": 48120, "f6": 10164}


def test_initial_weights_lie_within_their_fan_in():
    model = models.create("lenet5_1998")
    params = quick_jit(model.init)(jax.random.key(0), *models.dummy_inputs("lenet5_1998"))["params"]
    for name, fan_in in (("c1", 25), ("c5", 400), ("f6", 120)):
        bound = 2.4 / fan_in
        assert 0.9 * bound < np.abs(params[name]["kernel"]).max() <= bound
    assert np.abs(params["s4"]["coefficient"]).max() <= 2.4 / 4
    connections = [len(maps) for maps in C3_INPUTS for _ in maps]
    largest = np.abs(params["c3"]["kernel"]).max(axis=(0, 1))
    assert (largest <= 2.4 / (25 * np.array(connections)) + 1e-9).all()
    assert (largest > 0.5 * 2.4 / (25 * np.array(connections))).all()


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 2**32 - 1), st.integers(2, 9), st.integers(2, 9), st.integers(1, 4))
def test_sub_sampling(seed, height, width, channels):
    """The four inputs are added, multiplied by a coefficient, and a bias is added."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((2, height, width, channels)).astype(np.float32)
    coefficient, bias = rng.standard_normal((2, channels)).astype(np.float32)
    expected = np.empty((2, height // 2, width // 2, channels))
    for i, j in itertools.product(range(height // 2), range(width // 2)):
        a, b = 2 * i, 2 * j
        total = x[:, a, b] + x[:, a, b + 1] + x[:, a + 1, b] + x[:, a + 1, b + 1]
        expected[:, i, j] = total * coefficient + bias
    y = SubSample().apply({"params": {"coefficient": coefficient, "bias": bias}}, x)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 2**32 - 1), st.integers(5, 8), st.integers(5, 8), st.data())
def test_table_convolution(seed, height, width, data):
    """Each output map is the sum of one 5×5 correlation for each connection, plus a bias."""
    channels = data.draw(st.integers(1, 4))
    maps = st.sets(st.integers(0, channels - 1), min_size=1).map(lambda s: tuple(sorted(s)))
    table = tuple(data.draw(st.lists(maps, min_size=1, max_size=4)))
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((2, height, width, channels)).astype(np.float32)
    kernel = rng.standard_normal((5, 5, sum(map(len, table)))).astype(np.float32)
    bias = rng.standard_normal(len(table)).astype(np.float32)
    expected = np.empty((2, height - 4, width - 4, len(table)))
    connection = 0
    for target, sources in enumerate(table):
        expected[..., target] = bias[target]
        for source in sources:
            for i, j in itertools.product(range(height - 4), range(width - 4)):
                window = x[:, i : i + 5, j : j + 5, source]
                expected[:, i, j, target] += (window * kernel[..., connection]).sum((1, 2))
            connection += 1
    y = TableConv(table).apply({"params": {"kernel": kernel, "bias": bias}}, x)
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-4)


def test_squash_has_its_gain_and_its_bend_at_one():
    np.testing.assert_allclose(squash(jnp.array([-1.0, 1.0])), [-1, 1], atol=1e-4)
    x = jnp.linspace(0.5, 1.5, 1001)
    bend = jnp.abs(jax.vmap(jax.grad(jax.grad(squash)))(x))
    assert abs(x[bend.argmax()] - 1) < 0.02


def test_codes():
    codes = rbf_codes(30)
    assert codes.shape == (30, 84)
    assert set(np.unique(codes)) == {-1, 1}
    np.testing.assert_array_equal(rbf_codes(10), codes[:10])
    # A one has fewer black pixels than an eight; two classes differ in at least ten pixels.
    assert (codes[1] > 0).sum() < (codes[8] > 0).sum()
    assert min((a != b).sum() for a, b in itertools.combinations(codes, 2)) >= 10


def test_logits_are_negated_distances():
    model = models.create("lenet5_1998", num_classes=12)
    x = jax.random.normal(jax.random.key(1), (3, 32, 32, 1))
    variables = quick_jit(model.init)(jax.random.key(0), x)
    logits, features = quick_jit(model.apply)(variables, x)
    f6 = np.asarray(features["f6"], np.float64)
    expected = [[-((row - code) ** 2).sum() for code in rbf_codes(12)] for row in f6]
    np.testing.assert_allclose(logits, expected, rtol=1e-5)


@pytest.mark.parametrize("j", [0.1, 3.0, 1e6])
def test_rbf_loss(j):
    """Term by term."""
    penalties = np.random.default_rng(0).uniform(0, 10, (6, 10))
    labels = np.array([0, 1, 5, 9, 3, 3])
    expected = [
        row[label] + np.log(np.exp(-j) + np.exp(-row).sum())
        for row, label in zip(penalties, labels, strict=True)
    ]
    loss = rbf_loss(jnp.asarray(penalties, jnp.float32), jnp.eye(10)[labels], j)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    if j > 1e3:
        entropy = optax.softmax_cross_entropy_with_integer_labels(-jnp.float32(penalties), labels)
        np.testing.assert_allclose(loss, entropy, rtol=1e-5)
