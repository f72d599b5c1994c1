"""Decoder of the Transformer, for a memory of any width.

Vaswani et al., "Attention is all you need", NeurIPS 2017, arXiv:1706.03762; `Layer` is the layer of
encoder and decoder. `transformer.py` and `image_transformer.py` use the decoder. It computes the
logits of all targets at once for training, or of one token from a cache of keys and values;
`decoding.py` has searches with the cache.
"""

from collections import OrderedDict
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cv_jax.models import checks
from cv_jax.models.attention import attend, merge_heads, split_heads
from cv_jax.models.layers import at_least_float32
from cv_jax.models.positions import sinusoids

# First tokens of every vocabulary: padding, begin and end of a sequence.
PAD, BOS, EOS = 0, 1, 2

POS_EMBEDS = ("sincos", "none")

Cache = dict[str, Any]


class MultiHeadAttention(nn.Module):
    """Multi-head attention with keys and values of the same or another sequence.

    Attributes:
      width: token width of queries and output.
      num_heads: number of heads; must divide the width.
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
        """Return keys and values [B, heads, T, head_dim] of tokens [B, T, any width]."""
        k, v = self.k_proj(memory), self.v_proj(memory)
        return split_heads(k, self.num_heads), split_heads(v, self.num_heads)

    def __call__(self, x: jax.Array, keys_values: tuple, mask: jax.Array | None):
        """[B, Tq, width] → `([B, Tq, width], weights [B, heads, Tq, Tk])`; mask as in `attend`."""
        q = split_heads(self.q_proj(x), self.num_heads)
        out, weights = attend(q, *keys_values, mask=mask)
        return self.out_proj(merge_heads(out)), weights


class Layer(nn.Module):
    """Layer of the encoder, or with `cross` of the decoder.

    Sub-layers are self-attention, with `cross` attention to a memory, and an MLP. Dropout, shortcut
    and LayerNorm follow each sub-layer.

    Attributes:
      width: token width.
      num_heads: attention heads.
      hidden_dim: hidden width of the MLP.
      cross: whether the layer has cross-attention to a memory.
      dropout_rate: dropped share of the output of each sub-layer.
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
        """Apply the layer.

        Args:
          x: tokens [B, T, width].
          own: keys and values of the self-attention, from `keys_values`.
          own_mask: mask of the self-attention; broadcasts to [B, heads, T, Tk].
          memory: keys and values of the memory, from `memory_keys_values`.
          memory_mask: mask of the cross-attention.
          train: whether dropout is active.

        Returns:
          `(tokens, self-attention weights, cross-attention weights or None)`.
        """

        def drop(y):
            return self.dropout(y, deterministic=not train)

        y, self_weights = self.self_attn(x, own, own_mask)
        x = self.norm1(x + drop(y))
        cross_weights = None
        if self.cross:
            # PyTorch numbers norms in the order of the decoder: norm2 follows the cross-attention.
            y, cross_weights = self.multihead_attn(x, memory, memory_mask)
            x = self.norm2(x + drop(y))
        last = self.norm3 if self.cross else self.norm2
        x = last(x + drop(self.linear2(nn.relu(self.linear1(x)))))
        return x, self_weights, cross_weights

    def keys_values(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return keys and values of the self-attention for tokens [B, T, width]."""
        return self.self_attn.keys_values(x)

    def memory_keys_values(self, memory: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return keys and values of the cross-attention for a memory [B, S, any width]."""
        return self.multihead_attn.keys_values(memory)


class Decoder(nn.Module):
    """Embedding, decoder layers and output layer, for a memory of any width.

    Attributes:
      vocab_size: tokens, of which the first three are PAD, BOS and EOS.
      width: token width.
      depth: number of layers.
      num_heads: attention heads; must divide the width.
      hidden_dim: hidden width of the MLPs.
      dropout_rate: dropped share of embeddings and of the output of each sub-layer.
      final_norm: a LayerNorm after the last layer.
      attention_weights: whether `features` hold the attention weights.
      pos_embed: positions of the tokens, "sincos" or "none".
      causal: whether a token attends only to itself and the tokens before. Without it, a token
        also reads those after it, which it must predict; decoding has no tokens after it.
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
    pos_embed: str
    causal: bool
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

    def embed(self, tokens: jax.Array, positions: jax.Array | None, train: bool) -> jax.Array:
        """Token ids [B, T] and the result of `positions`, [T, width] or `None` → [B, T, width]."""
        x = self.embedding(tokens)
        x = x * jnp.asarray(self.width**0.5, x.dtype)
        if positions is not None:
            x = x + positions.astype(x.dtype)
        return self.dropout(x, deterministic=not train)

    def positions(self, length: int) -> np.ndarray | None:
        """Return the sinusoids [length, width] of the first positions; `None` without positions."""
        return sinusoids(length, self.width) if self.pos_embed == "sincos" else None

    def logits(self, x: jax.Array) -> jax.Array:
        """[..., width] → logits [..., vocab_size] from the embedding matrix, at least float32."""
        return at_least_float32(self.embedding.attend(x))

    def __call__(self, target, memory, target_mask, memory_mask, *, train):
        """Return `(logits [B, T, vocab_size], features)` of the token after each token of `target`.

        Args:
          target: ids [B, T]; the first is BOS.
          memory: [B, S, any width].
          target_mask: bool [B, T], True for tokens that attention reads; or `None` for all. Without
            `causal`, `None` is all but PAD.
          memory_mask: bool [B, S], likewise.
          train: whether dropout is active.
        """
        features = OrderedDict()
        length = target.shape[1]
        if self.causal:
            own_mask = np.tri(length, dtype=bool)[None, None]
            if target_mask is not None:
                own_mask = own_mask & target_mask[:, None, None]
        else:
            own_mask = (target != PAD if target_mask is None else target_mask)[:, None, None]
        if memory_mask is not None:
            memory_mask = memory_mask[:, None, None]
        x = features["target_embed"] = self.embed(target, self.positions(length), train)
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
        """Return the cache before the first token; the first axis of every leaf is the batch."""
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
        """Return the logits of the token after `tokens`, with the cache of the tokens before.

        Args:
          cache: result of `start` or of the previous `step`.
          tokens: ids [B], token number `index` of each sequence.
          index: scalar int from 0.

        Returns:
          `(logits [B, vocab_size], cache)`.
        """
        max_length = cache["layers_0"]["key"].shape[2]
        positions = self.positions(max_length)
        if positions is not None:
            positions = jnp.asarray(positions)[index][None]
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


def check_decoder(vocab_size: int, width: int, depth: int, num_heads: int, dropout_rate: float):
    """Check the fields of a decoder.

    Raises:
      ValueError: a field is invalid, or two fields exclude each other.
    """
    if vocab_size <= EOS:
        raise ValueError(f"vocab_size must be at least {EOS + 1} (PAD, BOS, EOS), got {vocab_size}")
    checks.positive("num_heads", [num_heads])
    checks.positive("width", [width])
    if width % 2 or width % num_heads:
        raise ValueError(f"width {width} must be even and a multiple of num_heads {num_heads}")
    checks.positive("depth", [depth])
    checks.rate("dropout_rate", dropout_rate)
