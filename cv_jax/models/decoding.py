"""Greedy and beam search: decoding of a sequence token by token.

Pure functions of any model with the methods `start(source, max_length)` → cache and
`step(cache, tokens, index)` → (logits, cache): `Transformer` and `ImageTransformer`. Both searches
are loops inside the compiled program (`jax.lax.while_loop`), stop as soon as the result is final,
and hold sequences of a fixed length with PAD after the end.
"""

import jax
import jax.numpy as jnp

from cv_jax.models.decoder import BOS, EOS, PAD


def greedy(model, variables, source: jax.Array, *, max_length: int) -> jax.Array:
    """Decode with the most probable token at each step.

    Args:
      model: the model; see above.
      variables: its variables.
      source: its input [B, ...].
      max_length: maximum number of tokens, including EOS.

    Returns:
      ids int32 [B, max_length], without BOS; PAD after EOS.
    """
    cache = model.apply(variables, source, max_length, method="start")

    def unfinished(state):
        index, _, ended, _, _ = state
        return (index < max_length) & ~ended.all()

    def extend(state):
        index, last, ended, tokens, cache = state
        logits, cache = model.apply(variables, cache, last, index, method="step")
        token = jnp.where(ended, PAD, logits.argmax(axis=-1)).astype(jnp.int32)
        tokens = tokens.at[:, index].set(token)
        return index + 1, token, ended | (token == EOS), tokens, cache

    batch = len(source)
    start = (
        0,
        jnp.full(batch, BOS, jnp.int32),
        jnp.zeros(batch, bool),
        jnp.full((batch, max_length), PAD, jnp.int32),
        cache,
    )
    return jax.lax.while_loop(unfinished, extend, start)[3]


def length_penalty(length, alpha: float):
    """Return ((5 + length)/6)^alpha (Wu et al., 2016, arXiv:1609.08144, equation 14)."""
    return ((5.0 + length) / 6.0) ** alpha


def beam_search(
    model,
    variables,
    source: jax.Array,
    *,
    max_length: int,
    beams: int = 4,
    alpha: float = 0.6,
) -> tuple[jax.Array, jax.Array]:
    """Decode with beam search.

    The score of a sequence is its log-probability divided by `length_penalty` of its number of
    tokens, including EOS. A sequence without EOS ends after `max_length` tokens. Each step extends
    the `beams` most probable unfinished sequences and keeps the `beams` finished sequences with the
    highest scores. The search stops when no unfinished sequence can exceed the lowest of these.

    Args:
      model: the model; see above.
      variables: its variables.
      source: its input [B, ...].
      max_length: maximum number of tokens, including EOS.
      beams: number of unfinished sequences, and of results.
      alpha: exponent of the length penalty; 0: no penalty. The paper uses 0.6 with 4 beams.

    Returns:
      `(ids int32 [B, beams, max_length], scores float32 [B, beams])`, best first, without BOS, PAD
      after EOS. If fewer sequences than beams exist, the score of the others is −inf.

    Raises:
      ValueError: `alpha` is negative or `beams` less than 1.
    """
    if alpha < 0:
        raise ValueError(f"alpha must not be negative, got {alpha}")
    if beams < 1:
        raise ValueError(f"beams must be at least 1, got {beams}")
    batch = len(source)
    cache = model.apply(variables, source, max_length, method="start")
    cache = jax.tree.map(lambda x: jnp.repeat(x, beams, axis=0), cache)
    empty = jnp.full((batch, beams, max_length), PAD, jnp.int32)
    start = dict(
        index=0,
        last=jnp.full((batch, beams), BOS, jnp.int32),
        tokens=empty,
        # All beams start equal: only the first may win.
        log_prob=jnp.full((batch, beams), -jnp.inf).at[:, 0].set(0.0),
        ended=empty,
        scores=jnp.full((batch, beams), -jnp.inf),
        cache=cache,
    )

    def unfinished(state):
        bound = state["log_prob"].max(axis=1) / length_penalty(max_length, alpha)
        return (state["index"] < max_length) & (bound > state["scores"].min(axis=1)).any()

    def extend(state):
        logits, cache = model.apply(
            variables, state["cache"], state["last"].reshape(-1), state["index"], method="step"
        )
        return _extend(state, logits, cache, max_length, alpha)

    state = jax.lax.while_loop(unfinished, extend, start)
    return state["ended"], state["scores"]


def _extend(state: dict, logits: jax.Array, cache, max_length: int, alpha: float) -> dict:
    """Return the state of `beam_search` after one more token; logits are [B · beams, vocab]."""
    index, (batch, beams, _), vocab = state["index"], state["tokens"].shape, logits.shape[-1]
    log_prob = jax.nn.log_softmax(logits).reshape(batch, beams, vocab)
    log_prob = (state["log_prob"][:, :, None] + log_prob).reshape(batch, -1)
    # Only one extension of each sequence is EOS, so half of 2 · beams candidates are unfinished.
    log_prob, candidate = jax.lax.top_k(log_prob, 2 * beams)
    origin, token = candidate // vocab, (candidate % vocab).astype(jnp.int32)
    tokens = jnp.take_along_axis(state["tokens"], origin[:, :, None], axis=1)
    tokens = tokens.at[:, :, index].set(token)

    ends = (token == EOS) | (index == max_length - 1)
    scores = jnp.where(ends, log_prob / length_penalty(index + 1, alpha), -jnp.inf)
    scores, best = jax.lax.top_k(jnp.concatenate([state["scores"], scores], axis=1), beams)
    ended = jnp.concatenate([state["ended"], tokens], axis=1)
    ended = jnp.take_along_axis(ended, best[:, :, None], axis=1)

    log_prob, best = jax.lax.top_k(jnp.where(ends, -jnp.inf, log_prob), beams)
    origin = jnp.take_along_axis(origin, best, axis=1)
    row = (jnp.arange(batch)[:, None] * beams + origin).reshape(-1)
    return dict(
        index=index + 1,
        last=jnp.take_along_axis(token, best, axis=1),
        tokens=jnp.take_along_axis(tokens, best[:, :, None], axis=1),
        log_prob=log_prob,
        ended=ended,
        scores=scores,
        cache=jax.tree.map(lambda x: x[row], cache),
    )
