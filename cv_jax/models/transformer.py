"""Transformer: encoder and decoder with attention.

Vaswani et al., "Attention is all you need", NeurIPS 2017, arXiv:1706.03762. In the encoder every
token of the source attends to all tokens. The decoder predicts one target token after another from
the tokens before (causal mask) and from the output of the encoder, the memory; see decoder.py.

As in the paper: normalisation after each shortcut (post-LN), sinusoidal positions, one embedding
matrix for source, target and output, embeddings multiplied by sqrt(width), ReLU, dropout on the
embeddings and on the output of each sub-layer. As in `torch.nn.Transformer`: biases in all
projections, LayerNorm epsilon 1e-5, and optionally a norm after each stack.
"""

import functools
from collections import OrderedDict

import flax.linen as nn
import jax
import jax.numpy as jnp

from cv_jax.models import checks
from cv_jax.models.attention import TENSOR_AXES
from cv_jax.models.decoder import BOS, PAD, POS_EMBEDS, Cache, Decoder, Layer, check_decoder
from cv_jax.models.entry import Entry


class Transformer(nn.Module):
    """Encoder–decoder Transformer from token ids to token ids.

    Attributes:
      vocab_size: tokens of source and target, of which the first three are PAD, BOS and EOS.
      width: token width.
      depth: number of layers of the encoder, and of the decoder.
      num_heads: attention heads; must divide the width.
      hidden_dim: hidden width of the MLPs.
      dropout_rate: dropped share of embeddings and of the output of each sub-layer.
      final_norm: a LayerNorm after the last layer of each stack, as in `torch.nn.Transformer`.
      attention_weights: whether `features` hold the attention weights.
      pos_embed: positions of source and target, "sincos" or "none". Without them the encoder does
        not know the order of the source.
      causal: whether a target token attends only to itself and the tokens before; see `Decoder`.
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
    pos_embed: str = "sincos"
    causal: bool = True
    dtype: str = "float32"
    param_dtype: str = "float32"

    def check(self) -> None:
        """Raise a ValueError if a field is invalid; see `check_decoder`."""
        check_decoder(self.vocab_size, self.width, self.depth, self.num_heads, self.dropout_rate)
        checks.one_of("pos_embed", self.pos_embed, POS_EMBEDS)

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
            self.pos_embed,
            self.causal,
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
        positions = self.decoder.positions(source.shape[1])
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
        """Return the logits of the token after each token of `target`.

        Args:
          source: ids [B, S], padded with PAD.
          target: ids [B, T]: BOS, then the sequence to predict without its last token.
          source_mask: bool [B, S], True for tokens that attention reads; default: all but PAD.
          target_mask: bool [B, T], likewise; default: all, because the causal mask already hides
            padding at the end from the tokens before it; without `causal` all but PAD.
          train: whether dropout is active.

        Returns:
          `(logits float32 [B, T, vocab_size], features)`: `"source_embed"`,
          `"encoder/layers_<i>"`, `"memory"` [B, S, width], `"target_embed"`,
          `"decoder/layers_<i>"` and `"pre_logits"` [B, T, width]; with `attention_weights` also
          `"encoder/layers_<i>/attention"` [B, heads, S, S], `"decoder/layers_<i>/self_attention"`
          [B, heads, T, T] and `"decoder/layers_<i>/cross_attention"` [B, heads, T, S].

        Raises:
          ValueError: see `check`.
        """
        memory, mask, features = self.encode(source, source_mask, train=train)
        logits, decoder_features = self.decoder(target, memory, target_mask, mask, train=train)
        features.update(decoder_features)
        return logits, features

    def start(self, source, max_length: int) -> Cache:
        """Return the cache for decoding up to `max_length` tokens; see `Decoder.start`."""
        memory, mask, _ = self.encode(source)
        return self.decoder.start(memory, mask, max_length)

    def step(self, cache: Cache, tokens: jax.Array, index: jax.Array) -> tuple[jax.Array, Cache]:
        """Decode one token; see `Decoder.step`."""
        return self.decoder.step(cache, tokens, index)


def _inputs(batch: int) -> tuple[jax.Array, jax.Array]:
    """Return source and target of 32 tokens without padding."""
    return jnp.full((batch, 32), BOS, jnp.int32), jnp.full((batch, 32), BOS, jnp.int32)


_PAPER = "Vaswani et al., Attention is all you need, arXiv:1706.03762"
_entry = functools.partial(
    Entry,
    Transformer,
    inputs=_inputs,
    task="translation",
    layer_order=(
        r"encoder_layers_(\d+)/.*",
        r"(?:encoder_norm|decoder/layers_(\d+))/.*",
    ),
    last_layers=("decoder/embedding",),
    undecayed="bias|scale|embedding",
    tensor_axes=TENSOR_AXES,
)
MODELS = {
    "transformer_base": _entry({}, 2017, _PAPER),
    "transformer_big": _entry(
        dict(width=1024, hidden_dim=4096, num_heads=16, dropout_rate=0.3), 2017, _PAPER
    ),
}
