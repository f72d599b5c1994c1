"""Vision Transformer.

Dosovitskiy et al., "An image is worth 16x16 words: Transformers for image recognition at scale",
ICLR 2021, arXiv:2010.11929. The image is cut into patches, each patch is mapped linearly to a token
and given a position, and a pre-norm Transformer encoder does the rest: from the first layer on,
every patch can look at every other.

Follows the paper: class token, learned positions, exact GELU, LayerNorm with epsilon 1e-6, Glorot
initialisation with biases near zero, zero head. Departs from it by option: pooling by the mean or
by attention (MAP, Zhai et al. 2022, arXiv:2106.04560), fixed sine-cosine positions (Beyer et al.
2022, arXiv:2205.01580), stochastic depth. Sizes: Table 1 of the paper for B, L, H; Ti and S as in
DeiT (Touvron et al., 2021, arXiv:2012.12877).
"""

from collections import OrderedDict

import flax.linen as nn
import jax
import jax.numpy as jnp

from cv_jax.models.entry import Entry
from cv_jax.models.layers import Attention, DropPath, Mlp, attend, drop_path_rates, sincos_2d

POOLS = ("cls", "mean", "map")
POSITIONS = ("learned", "sincos")


class Block(nn.Module):
    """Pre-norm encoder block: `x + attention(norm(x))`, then `x + mlp(norm(x))`."""

    num_heads: int
    mlp_ratio: float
    dropout_rate: float
    drop_path_rate: float
    dtype: str
    param_dtype: str

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        types = dict(dtype=self.dtype, param_dtype=self.param_dtype)
        y = nn.LayerNorm(epsilon=1e-6, **types, name="norm1")(x)
        y = Attention(self.num_heads, self.dropout_rate, **types, name="attn")(y, train=train)
        x = x + DropPath(self.drop_path_rate)(y, train=train)
        y = nn.LayerNorm(epsilon=1e-6, **types, name="norm2")(x)
        hidden_dim = int(x.shape[-1] * self.mlp_ratio)
        y = Mlp(hidden_dim, "gelu", self.dropout_rate, **types, name="mlp")(y, train=train)
        return x + DropPath(self.drop_path_rate)(y, train=train)


class AttentionPool(nn.Module):
    """Multi-head attention pooling: one learned query reads all tokens, then an MLP block."""

    num_heads: int
    mlp_ratio: float
    dtype: str
    param_dtype: str

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """[B, T, D] tokens → [B, D]."""
        batch, tokens, dim = x.shape
        types = dict(dtype=self.dtype, param_dtype=self.param_dtype)
        dense = dict(kernel_init=nn.initializers.xavier_uniform(), **types)
        query = self.param("query", nn.initializers.xavier_uniform(), (1, dim), self.param_dtype)

        def heads(y):
            y = y.reshape(*y.shape[:-1], self.num_heads, dim // self.num_heads)
            return jnp.moveaxis(y, -2, -3)

        q = heads(nn.Dense(dim, **dense, name="q")(query.astype(self.dtype)))
        k, v = jnp.split(nn.Dense(2 * dim, **dense, name="kv")(x), 2, axis=-1)
        q = jnp.broadcast_to(q, (batch, *q.shape))
        y = attend(q, heads(k), heads(v)).reshape(batch, dim)
        y = nn.Dense(dim, **dense, name="proj")(y)
        z = nn.LayerNorm(epsilon=1e-6, **types, name="norm")(y)
        return y + Mlp(int(dim * self.mlp_ratio), **types, name="mlp")(z, train=train)


class ViT(nn.Module):
    """Vision Transformer.

    Attributes:
      num_classes: size of the output; 0 gives the pooled features.
      image_size: side of the square input in pixels, or (height, width).
      patch_size: side of a patch in pixels; must divide the image.
      width: token width.
      depth: encoder blocks.
      num_heads: attention heads; must divide the width.
      mlp_ratio: width of the MLP over the token width.
      pool: "cls" reads a class token, "mean" averages the patches, "map" attends to them.
      pos_embed: "learned" (normal 0.02), or "sincos", fixed in two dimensions.
      dropout_rate: dropped share after positions, attention and MLP layers.
      drop_path_rate: stochastic depth of the last block, growing linearly from 0 at the first.
      dtype: dtype of the computation.
      param_dtype: dtype of the parameters.

    Rngs: `dropout` when training with either rate > 0.
    """

    num_classes: int = 1000
    image_size: int | tuple[int, int] = 224
    patch_size: int = 16
    width: int = 768
    depth: int = 12
    num_heads: int = 12
    mlp_ratio: float = 4.0
    pool: str = "cls"
    pos_embed: str = "learned"
    dropout_rate: float = 0.0
    drop_path_rate: float = 0.0
    dtype: str = "float32"
    param_dtype: str = "float32"

    def check(self) -> tuple[int, int]:
        """Patches along height and width.

        Raises:
          ValueError: a field's value is not allowed, or two of them do not fit together.
        """
        size = self.image_size
        height, width = (size, size) if isinstance(size, int) else size
        if height % self.patch_size or width % self.patch_size:
            common = [p for p in range(1, min(height, width) + 1) if not (height % p or width % p)]
            near = sorted(common, key=lambda p: abs(p - self.patch_size))[:3]
            raise ValueError(
                f"patch_size {self.patch_size} does not divide the image {height}x{width}; "
                f"nearest that do: {', '.join(map(str, sorted(near)))}"
            )
        if self.width % self.num_heads:
            raise ValueError(f"num_heads {self.num_heads} does not divide width {self.width}")
        if self.pool not in POOLS:
            raise ValueError(f"unknown pool {self.pool!r}; allowed: {', '.join(POOLS)}")
        if self.pos_embed not in POSITIONS:
            raise ValueError(
                f"unknown pos_embed {self.pos_embed!r}; allowed: {', '.join(POSITIONS)}"
            )
        return height // self.patch_size, width // self.patch_size

    @nn.compact
    def __call__(self, image: jax.Array, *, train: bool = False):
        """Scores of float images [B, H, W, C].

        Returns:
          `(logits float32 [B, num_classes], features)`: the tokens [B, T, D] after the embedding,
          after each block and after the last norm, and `"pre_logits"` [B, D].

        Raises:
          ValueError: see `check`; or the image is not of `image_size`.
        """
        rows, columns = self.check()
        expected = (rows * self.patch_size, columns * self.patch_size)
        if image.shape[1:3] != expected:
            raise ValueError(
                f"image is {image.shape[1]}x{image.shape[2]}, the model was made for "
                f"{expected[0]}x{expected[1]}: set image_size"
            )
        types = dict(dtype=self.dtype, param_dtype=self.param_dtype)
        features = OrderedDict()

        patch = (self.patch_size, self.patch_size)
        x = nn.Conv(self.width, patch, patch, padding="VALID", **types, name="patch_embed")(image)
        x = x.reshape(len(x), rows * columns, self.width)
        cls = self.pool == "cls"
        if cls:
            shape = (1, 1, self.width)
            token = self.param("cls_token", nn.initializers.zeros, shape, self.param_dtype)
            token = jnp.broadcast_to(token.astype(x.dtype), (len(x), 1, self.width))
            x = jnp.concatenate([token, x], axis=1)
        if self.pos_embed == "learned":
            init, shape = nn.initializers.normal(0.02), (1, *x.shape[1:])
            positions = self.param("pos_embed", init, shape, self.param_dtype)
        else:
            positions = jnp.pad(sincos_2d(rows, columns, self.width), ((int(cls), 0), (0, 0)))
        x = x + positions.astype(x.dtype)
        x = nn.Dropout(self.dropout_rate, deterministic=not train)(x)
        features["embed"] = x

        for i, rate in enumerate(drop_path_rates(self.drop_path_rate, self.depth)):
            x = Block(
                self.num_heads,
                self.mlp_ratio,
                self.dropout_rate,
                rate,
                **types,
                name=f"blocks_{i}",
            )(x, train=train)
            features[f"blocks_{i}"] = x
        x = features["norm"] = nn.LayerNorm(epsilon=1e-6, **types, name="norm")(x)

        if self.pool == "cls":
            x = x[:, 0]
        elif self.pool == "mean":
            x = x.mean(axis=1)
        else:
            x = AttentionPool(self.num_heads, self.mlp_ratio, **types, name="pool")(x, train=train)
        features["pre_logits"] = x
        if self.num_classes:
            zeros = nn.initializers.zeros
            x = nn.Dense(self.num_classes, kernel_init=zeros, **types, name="head")(x)
        return x.astype(jnp.float32), features


_PAPER = "Dosovitskiy et al., An image is worth 16x16 words, arXiv:2010.11929"
_SIZES = {
    "ti": dict(width=192, depth=12, num_heads=3),
    "s": dict(width=384, depth=12, num_heads=6),
    "b": dict(width=768, depth=12, num_heads=12),
    "l": dict(width=1024, depth=24, num_heads=16),
    "h": dict(width=1280, depth=32, num_heads=16),
}
MODELS = {
    f"vit_{size}{patch}": Entry(ViT, {**fields, "patch_size": patch}, 2020, _PAPER)
    for size, fields in _SIZES.items()
    for patch in (8, 14, 16, 32)
}
