"""Transformer: causality, masks, cached decoding, weights. tests/golden has parity tests."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from quick import quick_jit
from random_variables import random_variables

from cv_jax import models
from cv_jax.models.decoder import BOS, PAD

SMALL = dict(vocab_size=11, width=16, depth=2, num_heads=4, hidden_dim=24)
RNG = np.random.default_rng(0)
SOURCE = RNG.integers(3, 11, (3, 7))
SOURCE[1, 5:] = PAD
SOURCE[2, 2:] = PAD
TARGET = np.concatenate([np.full((3, 1), BOS), RNG.integers(3, 11, (3, 5))], axis=1)
IMAGE = RNG.standard_normal((3, 16, 24, 3)).astype(np.float32)


def build(name="transformer_base", **fields):
    if name == "image_transformer_ti":
        small = dict(image_size=(16, 24), patch_size=8, width=16, depth=1, num_heads=4)
        return models.create(name, **{**small, "vocab_size": 11, "decoder_depth": 2, **fields})
    return models.create(name, **{**SMALL, **fields})


BOTH = pytest.mark.parametrize(
    ("name", "source"), [("transformer_base", SOURCE), ("image_transformer_ti", IMAGE)]
)


@BOTH
def test_a_later_token_never_changes_an_earlier_score(name, source):
    model = build(name)
    variables = random_variables(model, source, TARGET)
    run = quick_jit(lambda target: model.apply(variables, source, target)[0])
    before = np.asarray(run(TARGET))
    for place in range(1, TARGET.shape[1]):
        changed = TARGET.copy()
        changed[:, place] = 3 + (changed[:, place] - 2) % 8
        after = np.asarray(run(changed))
        np.testing.assert_array_equal(after[:, :place], before[:, :place])
        assert (np.abs(after[:, place] - before[:, place]).max(axis=-1) > 1e-3).all()


@BOTH
@pytest.mark.parametrize("final_norm", [False, True])
def test_cached_decoding_is_full_decoding(name, source, final_norm):
    if name == "image_transformer_ti" and final_norm:
        pytest.skip("no such field")
    model = build(name, **({"final_norm": True} if final_norm else {}))
    variables = random_variables(model, source, TARGET)
    full, _ = quick_jit(model.apply)(variables, source, TARGET)

    @quick_jit
    def step(cache, tokens, index):
        return model.apply(variables, cache, tokens, index, method="step")

    # The cache is longer than the target: decoding ignores positions after the current token.
    cache = quick_jit(lambda x: model.apply(variables, x, 9, method="start"))(source)
    for index in range(TARGET.shape[1]):
        logits, cache = step(cache, jnp.asarray(TARGET[:, index]), index)
        np.testing.assert_allclose(logits, full[:, index], atol=2e-5)


def test_padding_of_the_source_is_masked():
    model = build(attention_weights=True)
    variables = random_variables(model, SOURCE, TARGET)
    logits, features = quick_jit(model.apply)(variables, SOURCE, TARGET)
    for name in ("encoder/layers_1/attention", "decoder/layers_1/cross_attention"):
        weights = np.asarray(features[name])
        assert (weights[1, :, :, 5:] == 0).all()
        assert (weights[2, :, :, 2:] == 0).all()
        assert (weights[0] > 0).all()
    shorter, _ = quick_jit(model.apply)(variables, SOURCE[2:, :2], TARGET[2:])
    np.testing.assert_allclose(shorter, logits[2:], atol=1e-5)
    # An explicit mask replaces the mask from PAD.
    everything, _ = quick_jit(model.apply)(variables, SOURCE, TARGET, np.ones(SOURCE.shape, bool))
    assert not np.allclose(everything[1:], logits[1:], atol=1e-3)


def test_target_mask():
    model = build(attention_weights=True)
    variables = random_variables(model, SOURCE, TARGET)
    mask = np.ones(TARGET.shape, bool)
    mask[1, 2] = False
    _, features = quick_jit(model.apply)(variables, SOURCE, TARGET, None, mask)
    weights = np.asarray(features["decoder/layers_0/self_attention"])
    assert (weights[1, :, :, 2] == 0).all()
    assert (weights[0, :, 2:, 2] > 0).all()


@BOTH
def test_weights_of_every_layer_and_head(name, source):
    model = build(name, attention_weights=True)
    variables = random_variables(model, source, TARGET)
    _, features = quick_jit(lambda *x: model.apply(*x))(variables, source, TARGET)
    memory = 7 if name == "transformer_base" else 6
    for i in range(2):
        own = features[f"decoder/layers_{i}/self_attention"]
        cross = features[f"decoder/layers_{i}/cross_attention"]
        assert own.shape == (3, 4, 6, 6)
        assert cross.shape == (3, 4, 6, memory)
        np.testing.assert_allclose(own.sum(axis=-1), 1, atol=1e-5)
        np.testing.assert_allclose(cross.sum(axis=-1), 1, atol=1e-5)
        assert (np.triu(np.asarray(own), 1) == 0).all()
    encoder = "encoder/layers_1" if name == "transformer_base" else "encoder/blocks_0"
    assert features[f"{encoder}/attention"].shape == (3, 4, memory, memory)


@BOTH
def test_outputs(name, source):
    model = build(name)
    variables = jax.eval_shape(model.init, jax.random.key(0), source, TARGET)
    logits, features = jax.eval_shape(model.apply, variables, source, TARGET)
    assert logits.shape == (3, 6, 11)
    assert logits.dtype == jnp.float32
    assert list(features)[-1] == "pre_logits"
    assert "memory" in features
    assert not any("attention" in key for key in features)


def test_embeddings_are_tied_and_scaled():
    """Input: rows of the embedding times sqrt(width) plus positions. Output: the same matrix."""
    model = build()
    variables = random_variables(model, SOURCE, TARGET)
    logits, features = quick_jit(model.apply)(variables, SOURCE, TARGET)
    matrix = variables["params"]["decoder"]["embedding"]["embedding"]
    first = np.tile([0.0, 1.0], 8)  # sin 0, cos 0, …
    np.testing.assert_allclose(features["target_embed"][:, 0], matrix[[BOS] * 3] * 4 + first)
    np.testing.assert_allclose(
        features["source_embed"][:, 0], matrix[SOURCE[:, 0]] * 4 + first, rtol=1e-6
    )
    np.testing.assert_allclose(logits, features["pre_logits"] @ matrix.T, atol=1e-4)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(vocab_size=2), "vocab_size must be at least 3"),
        (dict(num_heads=3), "width 16 must be even and a multiple of num_heads 3"),
        (dict(depth=0), "depth must be at least 1"),
        (dict(dropout_rate=1.0), "dropout_rate must lie in"),
    ],
)
def test_mistakes_are_one_line(fields, message):
    with pytest.raises(ValueError, match=message) as error:
        build(**fields).check()
    assert "\n" not in str(error.value)


def test_image_transformer_checks_its_encoder():
    with pytest.raises(ValueError, match="patch_size 7 does not divide"):
        build("image_transformer_ti", patch_size=7).check()


def test_without_positions_the_order_of_the_source_is_lost():
    """The memory of permuted tokens is the permuted memory; the decoder reads it as a set."""
    model, with_positions = build(pos_embed="none"), build()
    variables = random_variables(model, SOURCE, TARGET)
    order = np.array([4, 2, 6, 0, 5, 1, 3])

    def run(model):
        run = quick_jit(lambda source: model.apply(variables, source, TARGET))
        (logits, features), (permuted, others) = run(SOURCE), run(SOURCE[:, order])
        return logits, features["memory"], permuted, others["memory"]

    logits, memory, permuted, other_memory = run(model)
    np.testing.assert_allclose(other_memory, memory[:, order], atol=1e-5)
    np.testing.assert_allclose(permuted, logits, atol=1e-4)
    logits, memory, permuted, other_memory = run(with_positions)
    assert np.abs(other_memory - memory[:, order]).max() > 0.1
    assert np.abs(permuted - logits).max() > 0.1


def test_without_the_mask_a_later_target_changes_an_earlier_score():
    model = build(causal=False)
    variables = random_variables(model, SOURCE, TARGET)
    run = quick_jit(lambda target: model.apply(variables, SOURCE, target)[0])
    before = np.asarray(run(TARGET))
    changed = TARGET.copy()
    changed[:, -1] = 3 + (changed[:, -1] - 2) % 8
    after = np.asarray(run(changed))
    assert (np.abs(after - before).max(axis=-1) > 1e-4).all()
    # Padding at the end is hidden, with the mask that is the default and with a given one.
    padded = np.pad(TARGET, ((0, 0), (0, 2)), constant_values=PAD)
    np.testing.assert_allclose(run(padded)[:, :-2], before, atol=1e-5)
    given = quick_jit(lambda mask: model.apply(variables, SOURCE, padded, None, mask)[0])
    np.testing.assert_allclose(given(padded != PAD), run(padded), atol=1e-6)
    assert np.abs(given(np.ones(padded.shape, bool))[:, :-2] - before).max() > 1e-3


@pytest.mark.parametrize("fields", [{"pos_embed": "none"}, {"causal": False}])
def test_the_fields_change_no_parameter_and_decode_from_a_cache(fields):
    """Decoding without the causal mask reads only the tokens before: there are no others."""
    model, usual = build(**fields), build()
    variables = random_variables(usual, SOURCE, TARGET)
    shapes = [jax.eval_shape(m.init, jax.random.key(0), SOURCE, TARGET) for m in (model, usual)]
    assert jax.tree.map(jnp.shape, shapes[0]) == jax.tree.map(jnp.shape, shapes[1])

    @quick_jit
    def step(cache, tokens, index):
        return model.apply(variables, cache, tokens, index, method="step")

    causal = build(**{**fields, "causal": True})
    full, _ = quick_jit(causal.apply)(variables, SOURCE, TARGET)
    cache = quick_jit(lambda x: model.apply(variables, x, 9, method="start"))(SOURCE)
    for index in range(TARGET.shape[1]):
        logits, cache = step(cache, jnp.asarray(TARGET[:, index]), index)
        np.testing.assert_allclose(logits, full[:, index], atol=2e-5)


def test_unknown_positions_are_one_line():
    with pytest.raises(ValueError, match="unknown pos_embed 'learned'; allowed: sincos, none"):
        build(pos_embed="learned").check()
