"""Image Transformer: a ViT encoder and a Transformer decoder, image → sequence.

The encoder is `vit.ViT` (Dosovitskiy et al., 2021, arXiv:2010.11929) with all of its tokens. The
decoder is `decoder.Decoder` (Vaswani et al., 2017, arXiv:1706.03762). Its cross-attention shows
from which patches each token of the output is predicted.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from cv_jax.models.attention import FUSED, TENSOR_AXES
from cv_jax.models.decoder import BOS, Cache, Decoder, check_decoder
from cv_jax.models.entry import Entry
from cv_jax.models.vit import SIZES, ViT


class ImageTransformer(nn.Module):
    """Image → the tokens of a sequence.

    Attributes:
      vocab_size: tokens, of which the first three are PAD, BOS and EOS; 13 for ten classes.
      image_size: side of the square input in pixels, or (height, width).
      patch_size: side of a patch in pixels; must divide the image.
      width: token width of encoder and decoder.
      depth: number of encoder blocks.
      num_heads: attention heads; must divide the width.
      mlp_ratio: hidden width of the MLPs over the token width.
      decoder_depth: number of decoder layers.
      pos_embed: positions of the patches, "learned" or "sincos".
      dropout_rate: dropped share in encoder and decoder.
      drop_path_rate: stochastic depth of the encoder's last block; grows linearly from 0.
      attention_weights: whether `features` hold the attention weights.
      dtype: dtype of the computation.
      param_dtype: dtype of the parameters.

    Rngs: `dropout` when training with either rate > 0.
    """

    vocab_size: int = 13
    image_size: int | tuple[int, int] = 224
    patch_size: int = 16
    width: int = 192
    depth: int = 12
    num_heads: int = 3
    mlp_ratio: float = 4.0
    decoder_depth: int = 4
    pos_embed: str = "learned"
    dropout_rate: float = 0.1
    drop_path_rate: float = 0.0
    attention_weights: bool = False
    dtype: str = "float32"
    param_dtype: str = "float32"

    def check(self) -> tuple[int, int]:
        """Return the number of patches along height and width.

        Raises:
          ValueError: see `ViT.check` and `decoder.check_decoder`.
        """
        check_decoder(
            self.vocab_size, self.width, self.decoder_depth, self.num_heads, self.dropout_rate
        )
        return ViT(
            image_size=self.image_size,
            patch_size=self.patch_size,
            width=self.width,
            depth=self.depth,
            num_heads=self.num_heads,
            pos_embed=self.pos_embed,
            drop_path_rate=self.drop_path_rate,
            parent=None,
        ).check()

    def setup(self):
        self.check()
        types = dict(dtype=self.dtype, param_dtype=self.param_dtype)
        self.encoder = ViT(
            num_classes=0,
            image_size=self.image_size,
            patch_size=self.patch_size,
            width=self.width,
            depth=self.depth,
            num_heads=self.num_heads,
            mlp_ratio=self.mlp_ratio,
            pool="mean",
            pos_embed=self.pos_embed,
            dropout_rate=self.dropout_rate,
            drop_path_rate=self.drop_path_rate,
            attention_weights=self.attention_weights,
            **types,
        )
        self.decoder = Decoder(
            self.vocab_size,
            self.width,
            self.decoder_depth,
            self.num_heads,
            int(self.width * self.mlp_ratio),
            self.dropout_rate,
            False,
            self.attention_weights,
            "sincos",
            True,
            **types,
        )

    def __call__(self, image, target, target_mask=None, *, train: bool = False):
        """Return the logits of the token after each token of `target`.

        Args:
          image: float [B, H, W, C].
          target: ids [B, T]: BOS, then the sequence to predict without its last token.
          target_mask: bool [B, T], True for tokens that attention reads; default: all.
          train: whether dropout and stochastic depth are active.

        Returns:
          `(logits float32 [B, T, vocab_size], features)`: features of `ViT` under `"encoder/"`,
          then `"memory"` [B, patches, width], `"target_embed"`, `"decoder/layers_<i>"` and
          `"pre_logits"` [B, T, width]; with `attention_weights` also
          `"decoder/layers_<i>/self_attention"` [B, heads, T, T] and
          `"decoder/layers_<i>/cross_attention"` [B, heads, T, patches].

        Raises:
          ValueError: see `check`.
        """
        memory, features = self._encode(image, train)
        logits, decoder_features = self.decoder(target, memory, target_mask, None, train=train)
        features.update(decoder_features)
        return logits, features

    def _encode(self, image, train: bool):
        _, features = self.encoder(image, train=train)
        memory = features.pop("norm")
        features.pop("pre_logits")
        features = type(features)((f"encoder/{name}", x) for name, x in features.items())
        features["memory"] = memory
        return memory, features

    def start(self, image, max_length: int) -> Cache:
        """Return the cache for decoding up to `max_length` tokens; see `Decoder.start`."""
        return self.decoder.start(self._encode(image, False)[0], None, max_length)

    def step(self, cache: Cache, tokens: jax.Array, index: jax.Array) -> tuple[jax.Array, Cache]:
        """Decode one token; see `Decoder.step`."""
        return self.decoder.step(cache, tokens, index)


def _inputs(batch: int) -> tuple[jax.Array, jax.Array]:
    """Return images and targets of four tokens."""
    return jnp.zeros((batch, 224, 224, 3), jnp.float32), jnp.full((batch, 4), BOS, jnp.int32)


MODELS = {
    "image_transformer_ti": Entry(
        ImageTransformer,
        {**SIZES["ti"], "patch_size": 16},
        2020,
        "Dosovitskiy et al., An image is worth 16x16 words, arXiv:2010.11929; Vaswani et al., "
        "Attention is all you need, arXiv:1706.03762",
        inputs=_inputs,
        layer_order=(
            r"encoder/(?:patch_embed/.*|pos_embed)",
            r"encoder/blocks_(\d+)/.*",
            r"(?:encoder/norm|decoder/layers_(\d+))/.*",
        ),
        first_layers=("encoder/patch_embed",),
        last_layers=("decoder/embedding",),
        fused=FUSED,
        undecayed="bias|scale|pos_embed|embedding",
        tensor_axes=TENSOR_AXES,
        task="transcription",
    )
}
