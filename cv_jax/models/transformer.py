"""The Transformer: encoder and decoder of attention alone.

Vaswani et al., "Attention is all you need", NeurIPS 2017, arXiv:1706.03762. The encoder lets every
token of the source look at every other; the decoder writes the target token by token, looking at
what it has written (causally) and at the encoder's memory.

Follows the paper: normalisation after each shortcut (post-LN), sinusoidal positions, one embedding
matrix for source, target and output, multiplied by sqrt(width) on the way in, ReLU, dropout on the
embeddings and on what each sub-layer adds. As in `torch.nn.Transformer`: biases on all projections,
LayerNorm epsilon 1e-5, and by option a norm after either stack.

The decoder is a module of its own, for whatever memory there is to read (image_transformer.py).
Besides the full computation, which training needs, it decodes one token at a time from a cache of
keys and values; `decoding` holds the searches built on that.
"""

from collections import OrderedDict
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cv_jax.models import checks
from cv_jax.models.attention import attend, merge_heads, split_heads
from cv_jax.models.entry import Entry
from cv_jax.models.layers import at_least_float32
from cv_jax.models.positions import sinusoids

# The first tokens of every vocabulary: padding, begin and end of a sequence.
PAD, BOS, EOS = 0, 1, 2

Cache = dict[str, Any]


class MultiHeadAttention(nn.Module):
    """Queries from one sequence, keys and values from the same or another.

    Attributes:
      width: token width of queries and output.
      num_heads: heads; must divide the width.
      dtype: dtype of the computation.
      param_dtype: dtype of the parameters.
    """

    width: int
    num_heads: int
    dtype: str
    param_dtype: str

    def setup(self):
        dense = dict(
            kernel_init=nn.initializers.xavier_uniform(),
            dtype=self.dtype,
            param_dtype=self.param_dtype,
        )
        self.q_proj = nn.Dense(self.width, **dense)
        self.k_proj = nn.Dense(self.width, **dense)
        self.v_proj = nn.Dense(self.width, **dense)
        self.out_proj = nn.Dense(self.width, **dense)

    def keys_values(self, memory: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Keys and values [B, heads, T, head_dim] of [B, T, any width]."""
        k, v = self.k_proj(memory), self.v_proj(memory)
        return split_heads(k, self.num_heads), split_heads(v, self.num_heads)

    def __call__(self, x: jax.Array, keys_values: tuple, mask: jax.Array | None):
        """[B, Tq, width] → `(the same, weights [B, heads, Tq, Tk])`; see `attend` for the mask."""
        q = split_heads(self.q_proj(x), self.num_heads)
        out, weights = attend(q, *keys_values, mask=mask)
        return self.out_proj(merge_heads(out)), weights


class Layer(nn.Module):
    """A layer of the encoder, or with `cross` of the decoder.

    Self-attention, with `cross` attention to a memory, and a two-layer net, each followed by
    dropout, the shortcut and LayerNorm.

    Attributes:
      width: token width.
      num_heads: attention heads.
      hidden_dim: width of the two-layer net's inner layer.
      cross: whether the layer reads a memory.
      dropout_rate: dropped share of what each sub-layer adds.
      dtype: dtype of the computation.
      param_dtype: dtype of the parameters.
    """

    width: int
    num_heads: int
    hidden_dim: int
    cross: bool
    dropout_rate: float
    dtype: str
    param_dtype: str

    def setup(self):
        types = dict(dtype=self.dtype, param_dtype=self.param_dtype)
        norm = dict(epsilon=1e-5, **types)
        dense = dict(kernel_init=nn.initializers.xavier_uniform(), **types)
        self.self_attn = MultiHeadAttention(self.width, self.num_heads, **types)
        self.norm1 = nn.LayerNorm(**norm)
        if self.cross:
            self.multihead_attn = MultiHeadAttention(self.width, self.num_heads, **types)
            self.norm3 = nn.LayerNorm(**norm)
        self.linear1 = nn.Dense(self.hidden_dim, **dense)
        self.linear2 = nn.Dense(self.width, **dense)
        self.norm2 = nn.LayerNorm(**norm)
        self.dropout = nn.Dropout(self.dropout_rate)

    def __call__(self, x, own, own_mask, memory=None, memory_mask=None, *, train=False):
        """One layer's forward pass.

        Args:
          x: tokens [B, T, width].
          own: keys and values of the tokens that `x` may look at, from `keys_values`.
          own_mask: for the self-attention; broadcasts to [B, heads, T, Tk].
          memory: keys and values of the memory, from `memory_keys_values`.
          memory_mask: for the cross-attention.
          train: whether dropout acts.

        Returns:
          `(tokens, self-attention weights, cross-attention weights or None)`.
        """

        def drop(y):
            return self.dropout(y, deterministic=not train)

        y, self_weights = self.self_attn(x, own, own_mask)
        x = self.norm1(x + drop(y))
        cross_weights = None
        if self.cross:
            # torch numbers the norms by their order in the decoder: 2 after the cross-attention.
            y, cross_weights = self.multihead_attn(x, memory, memory_mask)
            x = self.norm2(x + drop(y))
        last = self.norm3 if self.cross else self.norm2
        x = last(x + drop(self.linear2(nn.relu(self.linear1(x)))))
        return x, self_weights, cross_weights

    def keys_values(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """For the self-attention, of tokens [B, T, width]."""
        return self.self_attn.keys_values(x)

    def memory_keys_values(self, memory: jax.Array) -> tuple[jax.Array, jax.Array]:
        """For the cross-attention, of a memory [B, S, any width]."""
        return self.multihead_attn.keys_values(memory)


class Decoder(nn.Module):
    """Embedding, decoder layers and output, for a memory of any width.

    Attributes:
      vocab_size: tokens, with padding, begin and end the first three.
      width: token width.
      depth: layers.
      num_heads: attention heads; must divide the width.
      hidden_dim: inner width of the two-layer nets.
      dropout_rate: dropped share of embeddings and of what each sub-layer adds.
      final_norm: a LayerNorm after the last layer.
      attention_weights: whether `features` hold the attention weights.
      dtype: dtype of the computation.
      param_dtype: dtype of the parameters.
    """

    vocab_size: int
    width: int
    depth: int
    num_heads: int
    hidden_dim: int
    dropout_rate: float
    final_norm: bool
    attention_weights: bool
    dtype: str
    param_dtype: str

    def setup(self):
        types = dict(dtype=self.dtype, param_dtype=self.param_dtype)
        init = nn.initializers.normal(self.width**-0.5)
        self.embedding = nn.Embed(self.vocab_size, self.width, embedding_init=init, **types)
        self.layers = [
            Layer(self.width, self.num_heads, self.hidden_dim, True, self.dropout_rate, **types)
            for _ in range(self.depth)
        ]
        if self.final_norm:
            self.norm = nn.LayerNorm(epsilon=1e-5, **types)
        self.dropout = nn.Dropout(self.dropout_rate)

    def embed(self, tokens: jax.Array, positions: jax.Array, train: bool) -> jax.Array:
        """Token ids [B, T] and their positions' sinusoids [T, width] → [B, T, width]."""
        x = self.embedding(tokens)
        x = x * jnp.asarray(self.width**0.5, x.dtype) + positions.astype(x.dtype)
        return self.dropout(x, deterministic=not train)

    def logits(self, x: jax.Array) -> jax.Array:
        """[..., width] → scores [..., vocab_size] by the embedding itself, at least float32."""
        return at_least_float32(self.embedding.attend(x))

    def __call__(self, target, memory, target_mask, memory_mask, *, train):
        """Scores of the token after each of `target`'s: `(logits [B, T, vocab_size], features)`.

        Args:
          target: ids [B, T], beginning with BOS.
          memory: [B, S, any width].
          target_mask: bool [B, T], True for tokens that may be looked at; or None.
          memory_mask: bool [B, S], likewise.
          train: whether dropout acts.
        """
        features = OrderedDict()
        length = target.shape[1]
        causal = np.tri(length, dtype=bool)[None, None]
        own_mask = causal if target_mask is None else causal & target_mask[:, None, None]
        if memory_mask is not None:
            memory_mask = memory_mask[:, None, None]
        x = features["target_embed"] = self.embed(target, sinusoids(length, self.width), train)
        for i, layer in enumerate(self.layers):
            x, self_weights, cross_weights = layer(
                x,
                layer.keys_values(x),
                own_mask,
                layer.memory_keys_values(memory),
                memory_mask,
                train=train,
            )
            if self.attention_weights:
                features[f"decoder/layers_{i}/self_attention"] = self_weights
                features[f"decoder/layers_{i}/cross_attention"] = cross_weights
            features[f"decoder/layers_{i}"] = x
        if self.final_norm:
            x = self.norm(x)
        features["pre_logits"] = x
        return self.logits(x), features

    def start(self, memory, memory_mask, max_length: int) -> Cache:
        """The cache before the first token: every leaf's first axis is the batch."""
        batch = len(memory)
        shape = (batch, self.num_heads, max_length, self.width // self.num_heads)
        if memory_mask is None:
            memory_mask = jnp.ones(memory.shape[:2], bool)
        cache = dict(memory_mask=memory_mask)
        for i, layer in enumerate(self.layers):
            key, value = layer.memory_keys_values(memory)
            zeros = jnp.zeros(shape, key.dtype)
            cache[f"layers_{i}"] = dict(key=zeros, value=zeros, memory_key=key, memory_value=value)
        return cache

    def step(self, cache: Cache, tokens: jax.Array, index: jax.Array) -> tuple[jax.Array, Cache]:
        """Scores of what follows `tokens`, given what the cache holds of the tokens before.

        Args:
          cache: from `start` or the previous `step`.
          tokens: ids [B], the token at place `index` of each sequence.
          index: scalar int, counted from 0.

        Returns:
          `(logits [B, vocab_size], cache)`.
        """
        max_length = cache["layers_0"]["key"].shape[2]
        positions = jnp.asarray(sinusoids(max_length, self.width))[index][None]
        x = self.embed(tokens[:, None], positions, train=False)
        own_mask = (jnp.arange(max_length) <= index)[None, None, None]
        memory_mask = cache["memory_mask"][:, None, None]
        new_cache = dict(memory_mask=cache["memory_mask"])
        for i, layer in enumerate(self.layers):
            old = cache[f"layers_{i}"]
            own = tuple(
                jax.lax.dynamic_update_slice_in_dim(past, new, index, axis=2)
                for past, new in zip((old["key"], old["value"]), layer.keys_values(x), strict=True)
            )
            memory = old["memory_key"], old["memory_value"]
            x, _, _ = layer(x, own, own_mask, memory, memory_mask)
            new_cache[f"layers_{i}"] = {**old, "key": own[0], "value": own[1]}
        if self.final_norm:
            x = self.norm(x)
        return self.logits(x[:, 0]), new_cache


class Transformer(nn.Module):
    """Encoder–decoder Transformer from token ids to token ids.

    Attributes:
      vocab_size: tokens shared by source and target, with PAD, BOS and EOS the first three.
      width: token width.
      depth: layers of the encoder, and of the decoder.
      num_heads: attention heads; must divide the width.
      hidden_dim: inner width of the two-layer nets.
      dropout_rate: dropped share of embeddings and of what each sub-layer adds.
      final_norm: a LayerNorm after the last layer of either stack, as `torch.nn.Transformer` has.
      attention_weights: whether `features` hold the attention weights.
      dtype: dtype of the computation.
      param_dtype: dtype of the parameters.

    Rngs: `dropout` when training with `dropout_rate` > 0.
    """

    vocab_size: int = 37000
    width: int = 512
    depth: int = 6
    num_heads: int = 8
    hidden_dim: int = 2048
    dropout_rate: float = 0.1
    final_norm: bool = False
    attention_weights: bool = False
    dtype: str = "float32"
    param_dtype: str = "float32"

    def check(self) -> None:
        """Raises ValueError as `check_decoder` does."""
        check_decoder(self.vocab_size, self.width, self.depth, self.num_heads, self.dropout_rate)

    def setup(self):
        self.check()
        types = dict(dtype=self.dtype, param_dtype=self.param_dtype)
        self.decoder = Decoder(
            self.vocab_size,
            self.width,
            self.depth,
            self.num_heads,
            self.hidden_dim,
            self.dropout_rate,
            self.final_norm,
            self.attention_weights,
            **types,
        )
        self.encoder_layers = [
            Layer(self.width, self.num_heads, self.hidden_dim, False, self.dropout_rate, **types)
            for _ in range(self.depth)
        ]
        if self.final_norm:
            self.encoder_norm = nn.LayerNorm(epsilon=1e-5, **types)

    def encode(self, source, source_mask=None, *, train: bool = False):
        """Token ids [B, S] → `(memory [B, S, width], mask bool [B, S], features)`."""
        features = OrderedDict()
        mask = source != PAD if source_mask is None else source_mask
        positions = sinusoids(source.shape[1], self.width)
        x = features["source_embed"] = self.decoder.embed(source, positions, train)
        for i, layer in enumerate(self.encoder_layers):
            x, weights, _ = layer(x, layer.keys_values(x), mask[:, None, None], train=train)
            if self.attention_weights:
                features[f"encoder/layers_{i}/attention"] = weights
            features[f"encoder/layers_{i}"] = x
        if self.final_norm:
            x = self.encoder_norm(x)
        features["memory"] = x
        return x, mask, features

    def __call__(self, source, target, source_mask=None, target_mask=None, *, train: bool = False):
        """Scores of the token after each of `target`'s, given the source.

        Args:
          source: ids [B, S], padded with PAD.
          target: ids [B, T], beginning with BOS: what is to be predicted, shifted right by one.
          source_mask: bool [B, S], True for tokens that may be looked at; by default all but PAD.
          target_mask: bool [B, T], likewise; by default all, since padding at the end stands after
            every token that counts and causality hides it already.
          train: whether dropout acts.

        Returns:
          `(logits float32 [B, T, vocab_size], features)`: `"source_embed"`,
          `"encoder/layers_<i>"`, `"memory"` [B, S, width], `"target_embed"`,
          `"decoder/layers_<i>"` and `"pre_logits"` [B, T, width]; with `attention_weights` also
          `"encoder/layers_<i>/attention"` [B, heads, S, S], `"decoder/layers_<i>/self_attention"`
          [B, heads, T, T] and `"decoder/layers_<i>/cross_attention"` [B, heads, T, S].

        Raises:
          ValueError: see `check_decoder`.
        """
        memory, mask, features = self.encode(source, source_mask, train=train)
        logits, decoder_features = self.decoder(target, memory, target_mask, mask, train=train)
        features.update(decoder_features)
        return logits, features

    def start(self, source, max_length: int) -> Cache:
        """The cache for decoding up to `max_length` tokens; see `Decoder.start`."""
        memory, mask, _ = self.encode(source)
        return self.decoder.start(memory, mask, max_length)

    def step(self, cache: Cache, tokens: jax.Array, index: jax.Array) -> tuple[jax.Array, Cache]:
        """See `Decoder.step`."""
        return self.decoder.step(cache, tokens, index)


def check_decoder(vocab_size: int, width: int, depth: int, num_heads: int, dropout_rate: float):
    """Whether a decoder's fields are allowed and fit together.

    Raises:
      ValueError: they do not.
    """
    if vocab_size <= EOS:
        raise ValueError(f"vocab_size must be at least {EOS + 1} (PAD, BOS, EOS), got {vocab_size}")
    checks.positive("num_heads", [num_heads])
    checks.positive("width", [width])
    if width % 2 or width % num_heads:
        raise ValueError(f"width {width} must be even and a multiple of num_heads {num_heads}")
    checks.positive("depth", [depth])
    checks.rate("dropout_rate", dropout_rate)


def _inputs(batch: int) -> tuple[jax.Array, jax.Array]:
    """A source and a target of 32 tokens, none of them padding."""
    return jnp.full((batch, 32), BOS, jnp.int32), jnp.full((batch, 32), BOS, jnp.int32)


_PAPER = "Vaswani et al., Attention is all you need, arXiv:1706.03762"
MODELS = {
    "transformer_base": Entry(Transformer, {}, 2017, _PAPER, inputs=_inputs, task="translation"),
    "transformer_big": Entry(
        Transformer,
        dict(width=1024, hidden_dim=4096, num_heads=16, dropout_rate=0.3),
        2017,
        _PAPER,
        inputs=_inputs,
        task="translation",
    ),
}
