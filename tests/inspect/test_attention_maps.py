"""Tests of attention over the image and of its rollout, against counts and NumPy."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_nets import SMALL_SWIN, SMALL_VIT, with_weights

from cv_jax import models
from cv_jax.inspect import attention, network, places
from cv_jax.inspect.rollout import rollout
from cv_jax.models import masking


def layer_of(weights, shape, patch=(8, 8)):
    """Return a layer of one window whose tokens are the places."""
    weights = jnp.asarray(weights, jnp.float32)
    index = np.broadcast_to(np.arange(weights.shape[-1]), (len(weights), 1, weights.shape[-1]))
    return attention.Layer("blocks_0/attention", weights[:, None], index, index, shape, patch)


def test_places_of_tokens():
    """Patches are row by row after the class token and the registers; a non-square image."""
    model = models.create("vit_ti16", **SMALL_VIT, registers=2)
    grid = places.token_grid(model, (jnp.zeros((1, 16, 24, 3)),), (16, 24))
    np.testing.assert_array_equal(grid.tokens, np.arange(6).reshape(2, 3) + 3)
    assert grid.patch == (8, 8)
    assert grid.length == 9
    assert grid.complete()
    np.testing.assert_array_equal(grid.places(), [-1, -1, -1, *range(6)])
    np.testing.assert_array_equal(grid.centres()[1, 2], [12, 20])


@pytest.mark.parametrize("sampling", ["random", "block"])
def test_places_of_visible_patches(sampling):
    fields = dict(image_size=32, patch_size=8, width=12, depth=1, num_heads=2)
    decoder = dict(decoder_width=8, decoder_depth=1, decoder_num_heads=1)
    model = models.create("mae_vit_b16", **fields, **decoder, masking=sampling)
    noise = jax.random.uniform(jax.random.key(2), (1, 16))
    grid = places.token_grid(model, (jnp.zeros((1, 32, 32, 3)), noise), (32, 32))
    scores = masking.SAMPLINGS[sampling](noise, (4, 4), 4)
    kept = np.argsort(np.asarray(scores[0]))[:4]
    expected = np.full(16, -1)
    expected[kept] = 1 + np.arange(4)
    np.testing.assert_array_equal(grid.tokens.reshape(-1), expected)


def test_distance_equals_a_count_by_hand():
    """One row of three places, 8 pixels apart: the first head reads itself, the second one step to
    the left or right, the third everything."""
    own = np.eye(3)
    step = np.array([[0, 1, 0], [0.5, 0, 0.5], [0, 1, 0]])
    layer = layer_of([[own, step, np.full((3, 3), 1 / 3)]], (1, 3))
    every = (0 + 8 + 16 + 8 + 0 + 8 + 16 + 8 + 0) / 9
    np.testing.assert_allclose(attention.mean_distance(layer), [0, 8, every], rtol=1e-6)


def test_distance_leaves_out_tokens_without_a_place():
    weights = np.array([[[0.2, 0.8, 0.0], [0.5, 0.25, 0.25], [0.4, 0.6, 0.0]]])[None]
    places_ = np.array([[[-1, 0, 1]]])
    layer = layer_of(weights, (1, 2))._replace(keys=places_, queries=places_)
    # The first place reads itself and its neighbour equally, the second reads the first.
    np.testing.assert_allclose(attention.mean_distance(layer), [(4 + 8) / 2], rtol=1e-6)
    cross = layer._replace(queries=np.full((1, 1, 3), attention.NO_PLACE))
    assert np.isnan(attention.mean_distance(cross)).all()


def test_entropy():
    layer = layer_of([[np.eye(4), np.full((4, 4), 0.25)]], (2, 2))
    np.testing.assert_allclose(attention.entropy(layer), [0, math.log(4)], atol=1e-6)


def test_attention_of_a_vit_is_that_of_numpy(vit):
    """Softmax of scaled products of queries and keys, from the embedding and the weights."""
    model, variables, images = vit
    found = attention.layers(model, variables, images)
    assert [layer.name for layer in found] == ["blocks_0/attention", "blocks_1/attention"]
    _, features = model.apply(variables, images, train=False)
    block = variables["params"]["blocks_0"]
    x = np.asarray(features["embed"], np.float64)
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    x = x * block["norm1"]["scale"] + block["norm1"]["bias"]
    qkv = x @ block["attn"]["qkv"]["kernel"] + block["attn"]["qkv"]["bias"]
    q, k = (qkv[..., i * 12 : (i + 1) * 12].reshape(2, 7, 2, 6) for i in range(2))
    scores = np.einsum("bqhd,bkhd->bhqk", q, k) / math.sqrt(6)
    weights = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    np.testing.assert_allclose(found[0].weights[:, 0], weights, atol=1e-5)
    np.testing.assert_allclose(
        attention.token_maps(found[0], 0), weights[:, :, 0, 1:].reshape(2, 2, 2, 3), atol=1e-5
    )
    np.testing.assert_allclose(
        attention.place_maps(found[0], 4), weights[:, :, 5, 1:].reshape(2, 2, 2, 3), atol=1e-5
    )
    np.testing.assert_allclose(
        attention.received(found[0]), weights.mean(2)[..., 1:].reshape(2, 2, 2, 3), atol=1e-5
    )


@pytest.mark.parametrize("rule", ["shrink", "pad"])
@pytest.mark.parametrize("size", [(24, 32), (20, 28)])
def test_stitched_windows_equal_global_attention_with_a_mask(rule, size):
    """Every pair of tokens of the whole map: the pair attends if both are in one window after the
    roll and no edge of the map is between them; scores and biases are those of the pair."""
    images = jax.random.normal(jax.random.key(1), (1, *size, 3))
    model = models.create("swin_t", **SMALL_SWIN, window_rule=rule)
    variables = with_weights(model, images, scale=2.0)
    found = attention.layers(model, variables, images)
    readable, weights = network.readable(model, variables)
    _, features = network.features(readable, weights, images)
    for index, (name, source) in enumerate(
        [("blocks_0", "embed"), ("blocks_1", "layers_0/blocks_0")]
    ):
        params = variables["params"]["layers_0"][name]
        expected = global_attention(
            np.asarray(features[source], np.float64), params, index == 1, rule
        )
        np.testing.assert_allclose(attention.matrix(found[index]), expected, atol=2e-5)


def global_attention(x, params, shifted, rule, window=2, heads=2):
    """Return the attention [1, heads, N, N] between all tokens of a map, pair by pair."""
    _, rows, columns, dim = x.shape
    shift = [window // 2 if shifted and side > window else 0 for side in (rows, columns)]
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    x = x * params["norm1"]["scale"] + params["norm1"]["bias"]
    qkv = x.reshape(-1, dim) @ params["attn"]["qkv"]["kernel"] + params["attn"]["qkv"]["bias"]
    q, k = (qkv[:, i * dim : (i + 1) * dim].reshape(-1, heads, dim // heads) for i in range(2))
    table = np.asarray(params["attn"]["relative_position_bias_table"])
    bias = np.asarray(params["attn"]["qkv"]["bias"])

    def where(place):
        """Return the window, the place in it, and the region of a token."""
        result = []
        for position, side, move in zip(place, (rows, columns), shift, strict=True):
            whole = -(-side // window) * window
            rolled = (position - move) % (side if rule == "shrink" else whole)
            region = (
                0
                if not move
                else (0 if rolled < whole - window else 1 if rolled < whole - move else 2)
            )
            result.append((rolled // window, rolled % window, region))
        return list(zip(*result, strict=True))

    # Padding is a token too: a row of zeros before the projection, so it takes part of the softmax.
    pad = bias[dim : 2 * dim].reshape(heads, -1)
    tokens = list(itertools.product(range(rows), range(columns)))
    places_ = [where(token) for token in tokens]
    result = np.zeros((heads, len(tokens), len(tokens)))
    for i, (in_window, at, region) in enumerate(places_):
        slots = {(r, c): None for r in range(window) for c in range(window)}
        for j, (other, other_at, _) in enumerate(places_):
            if other == in_window:
                slots[other_at] = j
        scores = np.full((heads, window * window), -np.inf)
        for s, (slot, j) in enumerate(slots.items()):
            offset = (
                (at[0] - slot[0] + window - 1) * (2 * window - 1) + at[1] - slot[1] + window - 1
            )
            key = pad if j is None else k[j]
            other_region = regions_of(slot, in_window, rows, columns, shift, window)
            if other_region == region:
                scores[:, s] = (q[i] * key).sum(-1) / math.sqrt(dim // heads) + table[offset]
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights = weights / weights.sum(-1, keepdims=True)
        for s, j in enumerate(slots.values()):
            if j is not None:
                result[:, i, j] = weights[:, s]
    return result[None]


def regions_of(slot, in_window, rows, columns, shift, window):
    """Return the regions of a slot of a window, as in `where`."""
    result = []
    for at, number, side, move in zip(slot, in_window, (rows, columns), shift, strict=True):
        whole, rolled = -(-side // window) * window, number * window + at
        result.append(
            0 if not move else (0 if rolled < whole - window else 1 if rolled < whole - move else 2)
        )
    return tuple(result)


@pytest.mark.parametrize("length", [3, 4])
def test_attention_of_a_decoder_is_causal_and_not_over_the_image(length):
    """Also with as many tokens as patches (4)."""
    model = models.create(
        "image_transformer_ti",
        **dict(image_size=16, patch_size=8, width=12, depth=1, num_heads=2, decoder_depth=2),
    )
    images = jax.random.normal(jax.random.key(0), (2, 16, 16, 1))
    target = jax.random.randint(jax.random.key(1), (2, length), 3, 13)
    variables = with_weights(model, images, target)
    found = attention.sequence_layers(model, variables, images, target)
    assert list(found) == [f"decoder/layers_{i}/self_attention" for i in (0, 1)]
    for weights in found.values():
        assert weights.shape == (2, 2, length, length)
        np.testing.assert_allclose(weights.sum(axis=-1), 1, rtol=1e-5)
        np.testing.assert_array_equal(np.triu(weights, k=1), 0)
        assert (np.tril(np.ones((length, length))) * weights > 0).sum() == 4 * sum(
            range(1, length + 1)
        )
    names = [layer.name for layer in attention.layers(model, variables, images, target)]
    assert names == ["encoder/blocks_0/attention"] + [
        f"decoder/layers_{i}/cross_attention" for i in (0, 1)
    ]


def test_rollout_of_uniform_attention_is_uniform(vit):
    """Queries of zero give equal scores, so every layer spreads the class token's share equally."""
    model, variables, images = vit
    params = jax.tree.map(lambda x: x, variables["params"])
    for block in ("blocks_0", "blocks_1"):
        attn = params[block]["attn"]
        attn["qkv"] = {name: x * (np.arange(36) >= 12) for name, x in attn["qkv"].items()}
    shares = rollout(model, {"params": params}, images)
    np.testing.assert_allclose(shares, np.full((2, 2, 3), shares[0, 0, 0]), rtol=1e-5)
    # Half stays at the class token in each layer, half is spread over seven tokens.
    step = np.full((7, 7), 0.5 / 7) + 0.5 * np.eye(7)
    np.testing.assert_allclose(shares[0, 0, 0], (step @ step)[0, 1], rtol=1e-5)


def test_rollout_equals_the_product_of_matrices(vit):
    model, variables, images = vit
    expected = np.eye(7)
    for layer in attention.layers(model, variables, images):
        weights = np.asarray(layer.weights[0, 0], np.float64).mean(axis=0)
        step = weights / weights.sum(-1, keepdims=True) / 2 + np.eye(7) / 2
        expected = step @ expected
    shares = rollout(model, variables, images)
    np.testing.assert_allclose(shares[0].reshape(-1), expected[0, 1:], rtol=1e-4)


def test_rollout_of_a_swin_equals_the_product_of_its_matrices(swin):
    """Matrices over all places, from the stitched windows; merging averages four places."""
    model, variables, images = swin
    found = attention.layers(model, variables, images)
    expected = None
    for before, layer in zip([None, *found], found, strict=False):
        matrix = np.asarray(attention.matrix(layer)[0], np.float64).mean(axis=0)
        step = matrix / matrix.sum(-1, keepdims=True) / 2 + np.eye(len(matrix)) / 2
        if before is not None and before.shape != layer.shape:
            expected = merging(before.shape, layer.shape) @ expected
        expected = step if expected is None else step @ expected
    mean = expected.mean(axis=0).reshape(found[0].shape)
    np.testing.assert_allclose(rollout(model, variables, images)[0], mean, rtol=1e-4)


def merging(before, after):
    """Return the matrix of the mean over the parts of each merged place."""
    matrix = np.zeros((math.prod(after), math.prod(before)))
    for row, column in itertools.product(range(before[0]), range(before[1])):
        matrix[(row // 2) * after[1] + column // 2, row * before[1] + column] = 1
    return matrix / matrix.sum(axis=1, keepdims=True)


def test_network_without_attention(resnet):
    model, variables, images = resnet
    assert attention.layers(model, variables, images) == []
    assert rollout(model, variables, images) is None


def test_centres_of_cross_attention():
    """Two queries over 2×3 places and a class token, which has no place."""
    head = np.zeros((2, 7))
    head[0, [0, 1, 6]] = 0.5, 0.25, 0.25  # class token, left place, right place of the second row
    head[1, [2, 5]] = 0.5, 0.5  # both rows of the middle
    other = np.zeros((2, 7))
    other[:, 3] = 1.0  # right place
    weights = jnp.asarray([[[head, other]]])
    keys = np.array([[[-1, 0, 1, 2, 3, 4, 5]]])
    queries = np.full((1, 1, 2), attention.NO_PLACE)
    layer = attention.Layer("cross_attention", weights, queries, keys, (2, 3), (8, 4))
    first = (0.125 * 2 + 0.125 * 10 + 0.5 * 10) / 0.75
    np.testing.assert_allclose(attention.centre_columns(layer), [[first, (6 + 10) / 2]])
