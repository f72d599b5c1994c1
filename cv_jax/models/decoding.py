"""Writing a sequence token by token: greedy and beam search.

Pure functions of any model with the methods `start(source, max_length)` → cache and
`step(cache, tokens, index)` → (logits, cache): `Transformer` and `ImageTransformer`. Both searches
are loops inside the compiled program (`jax.lax.while_loop`), stop as soon as nothing can change,
and hold sequences of a fixed length, with PAD after the end.
"""

import jax
import jax.numpy as jnp

from cv_jax.models.transformer import BOS, EOS, PAD


def greedy(model, variables, source: jax.Array, *, max_length: int) -> jax.Array:
    """The most probable next token, again and again.

    Args:
      model: see above.
      variables: its variables.
      source: its input [B, ...].
      max_length: most tokens to write, the end included.

    Returns:
      ids int32 [B, max_length], without BOS; after EOS everything is PAD.
    """
    cache = model.apply(variables, source, max_length, method="start")

    def going_on(state):
        index, _, ended, _, _ = state
        return (index < max_length) & ~ended.all()

    def write(state):
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
    return jax.lax.while_loop(going_on, write, start)[3]


def length_penalty(length, alpha: float):
    """((5 + length)/6)^alpha (Wu et al., 2016, arXiv:1609.08144, equation 14)."""
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
    """The best sequences found by following the most probable beginnings side by side.

    A sequence's score is its log-probability divided by `length_penalty` of its tokens, EOS
    included. One that has not ended after `max_length` tokens counts as it stands. At each step
    the `beams` most probable beginnings go on; beginnings that end join the best ended ones. The
    search stops when no beginning can still overtake the worst of those.

    Args:
      model: see above.
      variables: its variables.
      source: its input [B, ...].
      max_length: most tokens to write, the end included.
      beams: how many beginnings to follow and sequences to return.
      alpha: exponent of the length penalty; 0 for none. The paper uses 0.6, with 4 beams.

    Returns:
      `(ids int32 [B, beams, max_length], scores float32 [B, beams])`, best first, without BOS;
      after EOS everything is PAD. Where fewer sequences exist than beams, the rest score −inf.

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
        # One beginning, BOS; the others are copies that must not win.
        log_prob=jnp.full((batch, beams), -jnp.inf).at[:, 0].set(0.0),
        ended=empty,
        scores=jnp.full((batch, beams), -jnp.inf),
        cache=cache,
    )

    def going_on(state):
        bound = state["log_prob"].max(axis=1) / length_penalty(max_length, alpha)
        return (state["index"] < max_length) & (bound > state["scores"].min(axis=1)).any()

    def write(state):
        index = state["index"]
        logits, cache = model.apply(
            variables, state["cache"], state["last"].reshape(-1), index, method="step"
        )
        vocab = logits.shape[-1]
        log_prob = jax.nn.log_softmax(logits).reshape(batch, beams, vocab)
        log_prob = (state["log_prob"][:, :, None] + log_prob).reshape(batch, -1)
        # Each beginning ends in one way only: of twice as many candidates half can go on.
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

    state = jax.lax.while_loop(going_on, write, start)
    return state["ended"], state["scores"]
