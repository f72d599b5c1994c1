"""Greedy and beam search against exhaustive search, and on learnt toy sequences."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from quick import quick_jit
from random_variables import random_variables

from cv_jax import models
from cv_jax.models.decoder import BOS, EOS, PAD
from cv_jax.models.decoding import beam_search, greedy, length_penalty

VOCAB, LENGTH = 4, 4
SOURCE = np.array([[3, 3, PAD], [2, 1, 3], [3, 0, 2]])


@pytest.fixture(scope="module")
def tiny():
    model = models.create(
        "transformer_base", vocab_size=VOCAB, width=8, depth=1, num_heads=2, hidden_dim=8
    )
    target = np.full((3, LENGTH), BOS)
    return model, random_variables(model, SOURCE, target, scale=0.6, seed=1)


@pytest.fixture(scope="module")
def scored(tiny):
    """Return every sequence, and its log-probability for each source."""
    model, variables = tiny
    sequences = []
    for length in range(1, LENGTH + 1):
        for tokens in itertools.product(range(VOCAB), repeat=length):
            ended = EOS in tokens
            if (ended and tokens.index(EOS) == length - 1) or (not ended and length == LENGTH):
                sequences.append(tokens)
    padded = np.array([s + (PAD,) * (LENGTH - len(s)) for s in sequences])
    inputs = np.concatenate([np.full((len(padded), 1), BOS), padded[:, :-1]], axis=1)

    @quick_jit
    def score(source):
        logits, _ = model.apply(variables, jnp.tile(source, (len(padded), 1)), inputs)
        log_prob = jax.nn.log_softmax(logits)
        return jnp.take_along_axis(log_prob, padded[:, :, None], axis=2)[:, :, 0]

    lengths = np.array([len(s) for s in sequences])
    counted = np.arange(LENGTH) < lengths[:, None]
    log_probs = np.stack([np.where(counted, score(s), 0.0).sum(axis=1) for s in SOURCE])
    # The sequences are mutually exclusive, so their probabilities sum to one.
    np.testing.assert_allclose(np.exp(log_probs).sum(axis=1), 1.0, atol=1e-4)
    return padded, lengths, log_probs


@pytest.mark.parametrize("alpha", [0.0, 0.6, 2.0])
def test_wide_beam_search_is_exhaustive(alpha, tiny, scored):
    model, variables = tiny
    sequences, lengths, log_probs = scored
    beams = 3 ** (LENGTH - 1) * VOCAB // 2  # half of the candidates of the last step
    search = quick_jit(
        functools.partial(beam_search, model, max_length=LENGTH, beams=beams, alpha=alpha)
    )
    tokens, scores = search(variables, SOURCE)
    expected = log_probs / ((5 + lengths) / 6) ** alpha
    for b in range(3):
        best = np.argsort(-expected[b])[:beams]
        np.testing.assert_allclose(scores[b], expected[b][best], atol=1e-4)
        np.testing.assert_array_equal(tokens[b, :5], sequences[best[:5]])


@pytest.mark.parametrize("beams", [1, 2, 4])
def test_scores_are_those_of_the_sequences(beams, tiny, scored):
    """For every number of beams, the results are unique, sorted and have the correct scores."""
    model, variables = tiny
    sequences, lengths, log_probs = scored
    search = quick_jit(functools.partial(beam_search, model, max_length=LENGTH, beams=beams))
    tokens, scores = search(variables, SOURCE)
    expected = log_probs / ((5 + lengths) / 6) ** 0.6
    for b in range(3):
        places = [np.flatnonzero((sequences == t).all(axis=1)) for t in np.asarray(tokens[b])]
        # PAD is also a token here, so one row of ids can be two sequences.
        for place, score in zip(places, scores[b], strict=True):
            assert np.abs(expected[b][place] - score).min() < 1e-4
        assert (np.diff(scores[b]) <= 0).all()


def test_greedy(tiny):
    """One token at a time with the full model."""
    model, variables = tiny
    tokens = np.asarray(
        quick_jit(functools.partial(greedy, model, max_length=6))(variables, SOURCE)
    )
    run = quick_jit(model.apply)
    for b in range(3):
        written = [BOS]
        while len(written) <= 6 and EOS not in written:
            target = np.array([written + [PAD] * (7 - len(written))])
            logits, _ = run(variables, SOURCE[b : b + 1], target)
            written.append(int(logits[0, len(written) - 1].argmax()))
        expected = written[1:] + [PAD] * (7 - len(written))
        assert tokens[b].tolist() == expected


def test_length_penalty():
    """Wu et al., equation 14: 1 at length 1, and (5 + 7)/6 = 2 at length 7."""
    assert length_penalty(1, 0.6) == 1
    assert length_penalty(7, 0.6) == pytest.approx(2**0.6)


@pytest.mark.parametrize(
    ("fields", "message"), [(dict(alpha=-1.0), "alpha"), (dict(beams=0), "beams")]
)
def test_mistakes_are_one_line(fields, message, tiny):
    with pytest.raises(ValueError, match=message):
        beam_search(*tiny, SOURCE, max_length=3, **fields)


@pytest.mark.slow
@pytest.mark.parametrize("task", ["reverse", pytest.param("sort", marks=pytest.mark.long)])
def test_toy_sequences_are_learnt(task):
    """A small transformer_base decodes every new sequence without error, with greedy and with beam
    search, from padded sources of different lengths."""
    digits, longest = 8, 6
    model = models.create(
        "transformer_base",
        vocab_size=3 + digits,
        width=48,
        depth=1 if task == "reverse" else 2,
        num_heads=4,
        hidden_dim=96,
        dropout_rate=0.0,
    )

    def batch(rng, size):
        source = np.full((size, longest), PAD, np.int32)
        target = np.full((size, longest + 1), PAD, np.int32)
        for row in range(size):
            length = rng.integers(2, longest + 1)
            x = rng.integers(3, 3 + digits, length)
            source[row, :length] = x
            target[row, : length + 1] = [*(x[::-1] if task == "reverse" else np.sort(x)), EOS]
        return source, target

    steps = 700
    optimizer = optax.adam(optax.warmup_cosine_decay_schedule(0.0, 4e-3, 70, steps), b2=0.98)

    @jax.jit
    def step(params, opt_state, source, target):
        def loss(params):
            start = jnp.full((len(target), 1), BOS)
            shifted = jnp.concatenate([start, target[:, :-1]], axis=1)
            logits, _ = model.apply({"params": params}, source, shifted, train=True)
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, target)
            return jnp.sum(losses * (target != PAD)) / jnp.sum(target != PAD)

        updates, opt_state = optimizer.update(jax.grad(loss)(params), opt_state)
        return optax.apply_updates(params, updates), opt_state

    rng = np.random.default_rng(0)
    source, target = batch(rng, 64)
    params = quick_jit(model.init)(jax.random.key(0), source, target)["params"]
    opt_state = optimizer.init(params)
    for _ in range(steps):
        params, opt_state = step(params, opt_state, *batch(rng, 64))

    source, target = batch(np.random.default_rng(1), 256)
    search = functools.partial(greedy, model, max_length=longest + 1)
    np.testing.assert_array_equal(quick_jit(search)({"params": params}, source), target)
    search = functools.partial(beam_search, model, max_length=longest + 1)
    tokens, _ = quick_jit(search)({"params": params}, source[:64])
    np.testing.assert_array_equal(tokens[:, 0], target[:64])
