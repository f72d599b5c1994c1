"""Vision Transformer.

Dosovitskiy et al., "An image is worth 16x16 words: Transformers for image recognition at scale",
ICLR 2021, arXiv:2010.11929. The image is split into patches, each patch is mapped linearly to a
token plus a position embedding, and the tokens pass a pre-norm Transformer encoder.

As in the paper: class token, learned positions, exact GELU, LayerNorm with epsilon 1e-6, Glorot
initialisation with biases near zero, zero head. Options beyond the paper: pooling by the mean, by
attention (MAP, Zhai et al. 2022, arXiv:2106.04560) or by class token and mean (DINOv2's classifier,
Oquab et al. 2024, arXiv:2304.07193), fixed sine-cosine positions (Beyer et al.
2022, arXiv:2205.01580), stochastic depth, layer scale (Touvron et al. 2021, arXiv:2103.17239),
normalised queries and keys (Dehghani et al. 2023, arXiv:2302.05442), registers (Darcet et al. 2024,
arXiv:2309.16588), a distillation token (DeiT, see deit.py). Sizes: Table 1 of the paper for B, L,
H; Ti and S as in DeiT (Touvron et al., 2021, arXiv:2012.12877).
"""

import functools
from collections import OrderedDict
from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from cv_jax.models import checks
from cv_jax.models.attention import (
    FUSED,
    SCALES,
    TENSOR_AXES,
    FusedDense,
    attend,
    merge_heads,
    split_heads,
)
from cv_jax.models.batch_norm import BatchNorm
from cv_jax.models.encoder import check_blocks, run_blocks
from cv_jax.models.entry import Entry
from cv_jax.models.layers import Mlp, at_least_float32, pool
from cv_jax.models.positions import resize_patch_kernel, resize_positions, sincos_2d

POOLS = ("cls", "mean", "max", "mean_max", "map", "cls_mean")
POSITIONS = ("learned", "sincos", "none")


def patch_grid(image_size: int | tuple[int, int], patch_size: int) -> tuple[int, int]:
    """Return the number of patches along height and width.

    Raises:
      ValueError: `patch_size` does not divide the image.
    """
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    if patch_size < 1 or height % patch_size or width % patch_size:
        common = [p for p in range(1, min(height, width) + 1) if not (height % p or width % p)]
        near = sorted(common, key=lambda p: abs(p - patch_size))[:3]
        raise ValueError(
            f"patch_size {patch_size} does not divide the image {height}x{width}; "
            f"nearest valid: {', '.join(map(str, sorted(near)))}"
        )
    return height // patch_size, width // patch_size


class AttentionPool(nn.Module):
    """Multi-head attention pooling: one learned query attends to all tokens, then an MLP block."""

    num_heads: int
    mlp_ratio: float
    act: str
    norm_epsilon: float
    dtype: str
    param_dtype: str

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """[B, T, D] tokens → [B, D]."""
        batch, _, dim = x.shape
        types = dict(dtype=self.dtype, param_dtype=self.param_dtype)
        dense = dict(kernel_init=nn.initializers.xavier_uniform(), **types)
        query = self.param("query", nn.initializers.xavier_uniform(), (1, dim), self.param_dtype)
        q = nn.Dense(dim, **dense, name="q")(query.astype(self.dtype))
        q = jnp.broadcast_to(q, (batch, 1, dim))
        kv = FusedDense(2, **dense, name="kv")(x)
        heads = (split_heads(y, self.num_heads) for y in (q, kv[..., 0, :], kv[..., 1, :]))
        y, _ = attend(*heads)
        y = nn.Dense(dim, **dense, name="proj")(merge_heads(y)[:, 0])
        z = nn.LayerNorm(epsilon=self.norm_epsilon, **types, name="norm")(y)
        return y + Mlp(int(dim * self.mlp_ratio), self.act, **types, name="mlp")(z, train=train)


class ViT(nn.Module):
    """Vision Transformer.

    Attributes:
      num_classes: size of the output; 0 gives the pooled features.
      image_size: side of the square input in pixels, or (height, width).
      patch_size: side of a patch in pixels; must divide the image.
      width: token width.
      depth: number of encoder blocks.
      num_heads: attention heads; must divide the width.
      mlp_ratio: hidden width of the MLPs over the token width.
      act: activation of the MLPs, one of `layers.ACTIVATIONS`.
      pool: "cls": the class token; "mean", "max", "mean_max": of the patches, see `layers.pool`;
        "map": attention pooling; "cls_mean": class token and mean of the patches, concatenated.
      class_token: add a class token also where `pool` does not read it, as in MAE's fine-tuning.
      fc_norm: normalise the pooled features (parameters `fc_norm`) instead of every token (`norm`).
      head_norm: batch normalisation without scale and shift before the classifier, for linear
        probes (He et al., 2022, appendix A.1).
      registers: number of additional learned tokens; every pooling but "map" ignores them.
      distilled: a distillation token after the class token, with its own head (DeiT); needs pool
        "cls". See `__call__` for the outputs.
      pos_embed: "learned" (normal 0.02), or "sincos", fixed in two dimensions and zero for tokens
        that are not patches; "none" (for comparisons): the patches are a set.
      pos_embed_prefix: whether learned positions include the tokens that are not patches.
      qk_norm: LayerNorm of every head's queries and keys.
      attention_scale: "sqrt" divides the scores by √head_dim; "none" does not (for comparisons).
      layer_scale: initial value of a learned factor per channel on every branch; 0: no factor.
      norm_epsilon: constant under the root of every LayerNorm of tokens.
      dropout_rate: dropped share after positions, attention and MLP layers.
      drop_path_rate: stochastic depth of the last block; grows linearly from 0 at the first block.
      scan_layers: one scanned block instead of `depth` unrolled blocks; see encoder.py.
      remat_policy: intermediates kept for the backward pass, one of `encoder.POLICIES`.
      attention_implementation: one of `attention.IMPLEMENTATIONS`.
      attention_weights: whether `features` hold the attention weights.
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
    act: str = "gelu"
    pool: str = "cls"
    class_token: bool = False
    fc_norm: bool = False
    head_norm: bool = False
    registers: int = 0
    distilled: bool = False
    pos_embed: str = "learned"
    pos_embed_prefix: bool = True
    qk_norm: bool = False
    attention_scale: str = "sqrt"
    layer_scale: float = 0.0
    norm_epsilon: float = 1e-6
    dropout_rate: float = 0.0
    drop_path_rate: float = 0.0
    scan_layers: bool = False
    remat_policy: str = "none"
    attention_implementation: str = "xla"
    attention_weights: bool = False
    dtype: str = "float32"
    param_dtype: str = "float32"

    def check(self) -> tuple[int, int]:
        """Return the number of patches along height and width.

        Raises:
          ValueError: a field is invalid, or two fields exclude each other.
        """
        grid = patch_grid(self.image_size, self.patch_size)
        check_blocks(
            width=self.width,
            depth=self.depth,
            num_heads=self.num_heads,
            drop_path_rate=self.drop_path_rate,
            act=self.act,
            remat_policy=self.remat_policy,
            implementation=self.attention_implementation,
            attention_weights=self.attention_weights,
        )
        checks.one_of("pool", self.pool, POOLS)
        checks.one_of("pos_embed", self.pos_embed, POSITIONS)
        checks.one_of("attention_scale", self.attention_scale, SCALES)
        checks.rate("dropout_rate", self.dropout_rate)
        if self.distilled and self.pool != "cls":
            raise ValueError(f"distilled needs pool 'cls', got {self.pool!r}")
        if self.distilled and self.head_norm:
            raise ValueError("head_norm needs a model with one head: set distilled=False")
        if self.registers < 0:
            raise ValueError(f"registers must not be negative, got {self.registers}")
        return grid

    def tokens(self) -> dict[str, int]:
        """Return name → number of the tokens before the patches, in their order."""
        counts = (int(self._has_class_token()), int(self.distilled), self.registers)
        return dict(zip(("cls_token", "dist_token", "reg_token"), counts, strict=True))

    def prefix_tokens(self) -> int:
        """Return the number of tokens before the patches: class, distillation and registers."""
        return sum(self.tokens().values())

    def _has_class_token(self) -> bool:
        return self.class_token or self.pool in ("cls", "cls_mean")

    def pos_embed_prefix_tokens(self) -> int:
        """Return the number of positions before the positions of the patches."""
        return self.prefix_tokens() if self.pos_embed_prefix else 0

    @nn.compact
    def __call__(self, image: jax.Array, *, train: bool = False):
        """Return the logits of float images [B, H, W, C].

        Returns:
          `(logits float32 [B, num_classes], features)`: the tokens [B, T, D] after the embedding,
          after each block and after the last norm, and `"pre_logits"` [B, D]; with
          `attention_weights` also `"blocks_<i>/attention"` [B, heads, T, T] before each block's
          tokens. Tokens are ordered class, distillation, registers, patches row by row.

          With `distilled`, the logits in training are a pair, of the class token (for the labels)
          and of the distillation token (for the teacher's predictions); in evaluation their mean.
          `"pre_logits"` is then the mean of the two tokens.

        Raises:
          ValueError: see `check`; or the image is not of `image_size`.
        """
        rows, columns = self.check()
        expected = (rows * self.patch_size, columns * self.patch_size)
        if image.shape[1:3] != expected:
            raise ValueError(
                f"image is {image.shape[1]}x{image.shape[2]}, the model expects "
                f"{expected[0]}x{expected[1]}; set image_size"
            )
        types = dict(dtype=self.dtype, param_dtype=self.param_dtype)
        features = OrderedDict()

        patch = (self.patch_size, self.patch_size)
        x = nn.Conv(self.width, patch, patch, padding="VALID", **types, name="patch_embed")(image)
        x = x.reshape(len(x), rows * columns, self.width)
        x = self._add_positions(x, (rows, columns))
        x = nn.Dropout(self.dropout_rate, deterministic=not train)(x)
        features["embed"] = x

        x, block_features = run_blocks(
            x,
            depth=self.depth,
            train=train,
            drop_path_rate=self.drop_path_rate,
            scan=self.scan_layers,
            remat_policy=self.remat_policy,
            num_heads=self.num_heads,
            mlp_ratio=self.mlp_ratio,
            act=self.act,
            qk_norm=self.qk_norm,
            attention_scale=self.attention_scale,
            layer_scale=self.layer_scale,
            norm_epsilon=self.norm_epsilon,
            dropout_rate=self.dropout_rate,
            implementation=self.attention_implementation,
            attention_weights=self.attention_weights,
            **types,
        )
        features.update(block_features)
        if not self.fc_norm:
            x = features["norm"] = nn.LayerNorm(epsilon=self.norm_epsilon, **types, name="norm")(x)

        x = self._pool(x, train)
        if self.fc_norm:
            x = nn.LayerNorm(epsilon=self.norm_epsilon, **types, name="fc_norm")(x)
        features["pre_logits"] = x.mean(axis=1) if self.distilled else x
        if not self.num_classes:
            return at_least_float32(features["pre_logits"]), features
        if self.head_norm:
            norm = BatchNorm(
                epsilon=1e-6, use_scale=False, use_bias=False, **types, name="head_norm"
            )
            x = norm(x, train=train)

        def head(y, name):
            zeros = nn.initializers.zeros
            return nn.Dense(self.num_classes, kernel_init=zeros, **types, name=name)(y)

        if not self.distilled:
            return at_least_float32(head(x, "head")), features
        logits = (
            at_least_float32(head(x[:, 0], "head")),
            at_least_float32(head(x[:, 1], "head_dist")),
        )
        return logits if train else sum(logits) / 2, features

    def _add_positions(self, x: jax.Array, grid: tuple[int, int]) -> jax.Array:
        """Add positions, and the other tokens before the patches."""
        dim, normal = self.width, nn.initializers.normal
        tokens = []
        if self._has_class_token():
            tokens.append(
                self.param("cls_token", nn.initializers.zeros, (1, 1, dim), self.param_dtype)
            )
        if self.distilled:
            tokens.append(self.param("dist_token", normal(0.02), (1, 1, dim), self.param_dtype))
        if self.registers:
            shape = (1, self.registers, dim)
            tokens.append(self.param("reg_token", normal(1e-6), shape, self.param_dtype))
        prefix = [jnp.broadcast_to(t.astype(x.dtype), (len(x), *t.shape[1:])) for t in tokens]

        if self.pos_embed == "none":
            return jnp.concatenate([*prefix, x], axis=1)
        if self.pos_embed == "sincos":
            return jnp.concatenate([*prefix, x + sincos_2d(*grid, dim).astype(x.dtype)], axis=1)
        shape = (1, self.pos_embed_prefix_tokens() + x.shape[1], dim)
        positions = self.param("pos_embed", normal(0.02), shape, self.param_dtype).astype(x.dtype)
        if self.pos_embed_prefix:
            return jnp.concatenate([*prefix, x], axis=1) + positions
        return jnp.concatenate([*prefix, x + positions], axis=1)

    def _pool(self, x: jax.Array, train: bool) -> jax.Array:
        """Tokens [B, T, D] → [B, D]; with a distillation token [B, 2, D], "cls_mean" [B, 2·D]."""
        if self.pool == "map":
            types = dict(dtype=self.dtype, param_dtype=self.param_dtype)
            fields = (self.num_heads, self.mlp_ratio, self.act, self.norm_epsilon)
            return AttentionPool(*fields, **types, name="pool")(x, train=train)
        if self.pool == "cls":
            return x[:, :2] if self.distilled else x[:, 0]
        patches = x[:, self.prefix_tokens() :]
        if self.pool == "cls_mean":
            return jnp.concatenate([x[:, 0], patches.mean(axis=1)], axis=-1)
        return pool(patches, self.pool, (1,))


def resize(params: Mapping, old: ViT, new: ViT, method: str = "bicubic_antialias") -> dict:
    """Fit the parameters of a ViT to another image or patch size.

    Learned positions are resampled, and the kernel of the patch embedding is fitted with FlexiViT's
    pseudo-inverse; other parameters are kept. For use outside jitted programs.

    Args:
      params: the `params` collection of `old`.
      old: the model of the parameters.
      new: the model of the result; differs in `image_size`, `patch_size` or both.
      method: resampling method, one of `positions.METHODS`; the default is timm's.

    Raises:
      ValueError: a field of a model is invalid, or the positions do not fit `old`.
    """
    old_grid, new_grid = old.check(), new.check()
    params = dict(params)
    size = (new.patch_size, new.patch_size)
    kernel = resize_patch_kernel(params["patch_embed"]["kernel"], size, method)
    params["patch_embed"] = {**params["patch_embed"], "kernel": kernel}
    if old.pos_embed == "learned":
        params["pos_embed"] = resize_positions(
            params["pos_embed"], old_grid, new_grid, old.pos_embed_prefix_tokens(), method
        )
    return params


_PAPER = "Dosovitskiy et al., An image is worth 16x16 words, arXiv:2010.11929"
SIZES = {
    "ti": dict(width=192, depth=12, num_heads=3),
    "s": dict(width=384, depth=12, num_heads=6),
    "b": dict(width=768, depth=12, num_heads=12),
    "l": dict(width=1024, depth=24, num_heads=16),
    "h": dict(width=1280, depth=32, num_heads=16),
}
UNDECAYED = "bias|scale|gamma|pos_embed|token|query"
vit_entry = functools.partial(
    Entry,
    ViT,
    layer_order=(r"(?:patch_embed/.*|\w+_token|pos_embed)", r"blocks_(\d+)/.*"),
    first_layers=("patch_embed",),
    last_layers=("head", "head_dist"),
    fused=FUSED,
    undecayed=UNDECAYED,
    tensor_axes=TENSOR_AXES,
)
MODELS = {
    f"vit_{size}{patch}": vit_entry({**fields, "patch_size": patch}, 2020, _PAPER)
    for size, fields in SIZES.items()
    for patch in (8, 14, 16, 32)
}
