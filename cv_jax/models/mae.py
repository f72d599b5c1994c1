"""Masked autoencoder.

He et al., "Masked autoencoders are scalable vision learners", CVPR 2022, arXiv:2111.06377. Three
quarters of the patches are removed; a ViT encoder sees only the rest, so that pre-training is
cheap; a narrow decoder, given mask tokens in the places of the removed patches, predicts their
pixels. After pre-training the decoder is thrown away and `to_vit` hands the encoder over.

Follows the official code: fixed sine-cosine positions (zero for the class token), Glorot-uniform
kernels with queries, keys and values as one matrix and the patch embedding as a matrix of flattened
patches, LayerNorm with epsilon 1e-6, class and mask tokens from N(0, 0.02). The decoder is 512 wide
and 8 blocks deep with 16 heads for every encoder.
"""

from collections import OrderedDict
from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cv_jax.models.encoder import check_blocks, run_blocks
from cv_jax.models.entry import Entry
from cv_jax.models.layers import at_least_float32
from cv_jax.models.positions import resize_positions, sincos_2d
from cv_jax.models.vit import ViT, patch_grid


def random_mask(noise: jax.Array, keep: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Which patches are kept, from one random number per patch.

    Args:
      noise: float [B, L]; the `keep` patches with the smallest values are kept.
      keep: how many.

    Returns:
      `(kept int [B, keep], restore int [B, L], mask float32 [B, L])`: the kept patches' indices in
      the order of their noise, the place of each patch in that order, and 1 for removed patches.
    """
    order = jnp.argsort(noise, axis=1)
    restore = jnp.argsort(order, axis=1)
    return order[:, :keep], restore, (restore >= keep).astype(jnp.float32)


def unshuffle(kept: jax.Array, mask_token: jax.Array, restore: jax.Array) -> jax.Array:
    """Kept tokens [B, keep, D] in their places and `mask_token` [D] in all others: [B, L, D]."""
    batch, keep, dim = kept.shape
    removed = jnp.broadcast_to(mask_token, (batch, restore.shape[1] - keep, dim))
    tokens = jnp.concatenate([kept, removed.astype(kept.dtype)], axis=1)
    return jnp.take_along_axis(tokens, restore[:, :, None], axis=1)


def patchify(image: jax.Array, patch_size: int) -> jax.Array:
    """[B, H, W, C] → [B, patches, patch_size²·C]: rows, columns and channels of each patch."""
    batch, height, width, channels = image.shape
    rows, columns = height // patch_size, width // patch_size
    x = image.reshape(batch, rows, patch_size, columns, patch_size, channels)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, rows * columns, -1)


def unpatchify(patches: jax.Array, patch_size: int, grid: tuple[int, int]) -> jax.Array:
    """[B, patches, patch_size²·C] → [B, H, W, C]: the inverse of `patchify`."""
    batch, rows, columns = len(patches), *grid
    x = patches.reshape(batch, rows, columns, patch_size, patch_size, -1)
    x = x.transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(batch, rows * patch_size, columns * patch_size, -1)


def reconstruction_loss(
    image: jax.Array,
    prediction: jax.Array,
    mask: jax.Array,
    patch_size: int,
    normalize: bool = True,
) -> jax.Array:
    """Mean squared error over the removed patches of each example: float [B].

    Every example has as many removed patches as every other, so that the mean over the batch is the
    official loss.

    Args:
      image: [B, H, W, C], what the model saw.
      prediction: [B, L, patch_size²·C].
      mask: [B, L], 1 for removed patches.
      patch_size: side of a patch.
      normalize: compare with each patch's pixels standardised by their own mean and (unbiased)
        variance plus 1e-6, which the paper found to help.
    """
    target = patchify(image, patch_size).astype(prediction.dtype)
    if normalize:
        mean = target.mean(axis=-1, keepdims=True)
        variance = target.var(axis=-1, keepdims=True, ddof=1)
        target = (target - mean) / jnp.sqrt(variance + 1e-6)
    error = jnp.square(prediction - target).mean(axis=-1)
    return (error * mask).sum(axis=1) / mask.sum(axis=1)


def _patch_init(key, shape, dtype=jnp.float32):
    """Glorot-uniform of the kernel as a matrix from the pixels of a patch to a token."""
    matrix = (shape[0] * shape[1] * shape[2], shape[3])
    return nn.initializers.xavier_uniform()(key, matrix, dtype).reshape(shape)


class MAE(nn.Module):
    """Masked autoencoder: image → the pixels of its patches, most of them not seen.

    Attributes:
      image_size: side of the square input in pixels, or (height, width).
      patch_size: side of a patch in pixels; must divide the image.
      width: token width of the encoder.
      depth: encoder blocks.
      num_heads: attention heads of the encoder.
      mlp_ratio: width of the MLPs over the token width, in encoder and decoder.
      decoder_width: token width of the decoder.
      decoder_depth: decoder blocks.
      decoder_num_heads: attention heads of the decoder.
      mask_ratio: share of the patches that is removed.
      scan_layers: one scanned block instead of unrolled ones; see encoder.py.
      remat_policy: what is kept for the backward pass, one of `encoder.REMAT_POLICIES`.
      attention_implementation: one of `attention.IMPLEMENTATIONS`.
      attention_weights: whether `features` hold the attention weights.
      dtype: dtype of the computation.
      param_dtype: dtype of the parameters.

    Rngs: `mask`, where no noise is given.
    """

    image_size: int | tuple[int, int] = 224
    patch_size: int = 16
    width: int = 768
    depth: int = 12
    num_heads: int = 12
    mlp_ratio: float = 4.0
    decoder_width: int = 512
    decoder_depth: int = 8
    decoder_num_heads: int = 16
    mask_ratio: float = 0.75
    scan_layers: bool = False
    remat_policy: str = "none"
    attention_implementation: str = "xla"
    attention_weights: bool = False
    dtype: str = "float32"
    param_dtype: str = "float32"

    def check(self) -> tuple[tuple[int, int], int]:
        """Patches along height and width, and how many patches are kept.

        Raises:
          ValueError: a field's value is not allowed, or two of them do not fit together.
        """
        grid = patch_grid(self.image_size, self.patch_size)
        for width, depth, heads in (
            (self.width, self.depth, self.num_heads),
            (self.decoder_width, self.decoder_depth, self.decoder_num_heads),
        ):
            check_blocks(
                width=width,
                depth=depth,
                num_heads=heads,
                drop_path_rate=0.0,
                act="gelu",
                remat_policy=self.remat_policy,
                implementation=self.attention_implementation,
                attention_weights=self.attention_weights,
            )
        patches = grid[0] * grid[1]
        keep = int(patches * (1 - self.mask_ratio))
        if not 0 < keep < patches:
            raise ValueError(
                f"mask_ratio {self.mask_ratio} keeps {keep} of {patches} patches; at least one "
                f"must be kept and one removed"
            )
        return grid, keep

    @nn.compact
    def __call__(self, image: jax.Array, noise: jax.Array | None = None, *, train: bool = False):
        """Predicts the patches of float images [B, H, W, C].

        Args:
          image: the images, normalised.
          noise: float [B, patches], the random numbers that choose what is removed; drawn from the
            stream `mask` by default.
          train: without effect; there is no dropout.

        Returns:
          `(prediction float32 [B, patches, patch_size²·C], features)`: the encoder's tokens
          [B, 1 + kept, D] after the embedding (`"embed"`), each block and the last norm, `"mask"`
          float32 [B, patches] with 1 for removed patches, the decoder's tokens
          [B, 1 + patches, D'] after its embedding and each block, and `"pre_logits"`
          [B, patches, D']. The loss is `reconstruction_loss(image, prediction, features["mask"],
          patch_size)`.

        Raises:
          ValueError: see `check`; or the image is not of `image_size`.
        """
        (rows, columns), keep = self.check()
        expected = (rows * self.patch_size, columns * self.patch_size)
        if image.shape[1:3] != expected:
            raise ValueError(
                f"image is {image.shape[1]}x{image.shape[2]}, the model was made for "
                f"{expected[0]}x{expected[1]}: set image_size"
            )
        types = dict(dtype=self.dtype, param_dtype=self.param_dtype)
        dense = dict(kernel_init=nn.initializers.xavier_uniform(), **types)
        blocks = dict(
            train=train,
            scan=self.scan_layers,
            remat_policy=self.remat_policy,
            mlp_ratio=self.mlp_ratio,
            implementation=self.attention_implementation,
            attention_weights=self.attention_weights,
            **types,
        )
        features = OrderedDict()

        patch = (self.patch_size, self.patch_size)
        x = nn.Conv(
            self.width,
            patch,
            patch,
            padding="VALID",
            kernel_init=_patch_init,
            **types,
            name="patch_embed",
        )(image)
        batch = len(x)
        x = x.reshape(batch, rows * columns, self.width)
        x = x + sincos_2d(rows, columns, self.width).astype(x.dtype)
        if noise is None:
            noise = jax.random.uniform(self.make_rng("mask"), x.shape[:2])
        kept, restore, mask = random_mask(noise, keep)
        x = jnp.take_along_axis(x, kept[:, :, None], axis=1)
        token = nn.initializers.normal(0.02)
        cls_token = self.param("cls_token", token, (1, 1, self.width), self.param_dtype)
        cls_token = jnp.broadcast_to(cls_token.astype(x.dtype), (batch, 1, self.width))
        x = features["embed"] = jnp.concatenate([cls_token, x], axis=1)
        x, block_features = run_blocks(x, depth=self.depth, num_heads=self.num_heads, **blocks)
        features.update(block_features)
        x = features["norm"] = nn.LayerNorm(epsilon=1e-6, **types, name="norm")(x)
        features["mask"] = mask

        width = self.decoder_width
        x = nn.Dense(width, **dense, name="decoder_embed")(x)
        mask_token = self.param("mask_token", token, (1, 1, width), self.param_dtype)
        patches = unshuffle(x[:, 1:], mask_token[0, 0], restore)
        patches = patches + sincos_2d(rows, columns, width).astype(x.dtype)
        x = features["decoder_embed"] = jnp.concatenate([x[:, :1], patches], axis=1)
        x, block_features = run_blocks(
            x,
            depth=self.decoder_depth,
            num_heads=self.decoder_num_heads,
            name="decoder_blocks",
            **blocks,
        )
        features.update(block_features)
        x = nn.LayerNorm(epsilon=1e-6, **types, name="decoder_norm")(x)
        x = features["pre_logits"] = x[:, 1:]
        pixels = self.patch_size**2 * image.shape[-1]
        return at_least_float32(nn.Dense(pixels, **dense, name="decoder_pred")(x)), features


def to_vit(params: Mapping, mae: MAE, vit_params: Mapping, vit: ViT) -> dict:
    """A ViT's parameters with the pre-trained encoder in them.

    Patch embedding, class token, blocks and final norm are the encoder's; the ViT keeps what the
    encoder has not: its head, and with `fc_norm` that norm. Learned positions start from the fixed
    ones, resampled without antialiasing where the grids differ.

    Args:
      params: the `params` collection of `mae`.
      mae: the pre-trained model.
      vit_params: freshly initialised parameters of `vit`.
      vit: the model to be fine-tuned or probed; of the same width, depth, heads and patch, and
        scanned or unrolled as `mae` is.

    Raises:
      ValueError: the encoder does not fit into `vit`; the message names the first misfit.
    """
    result = dict(vit_params)
    for name in params:
        taken = name in ("patch_embed", "cls_token", "norm") or name.startswith("blocks")
        if not taken or (name == "norm" and vit.fc_norm):
            continue
        have, want = jax.tree.map(jnp.shape, (params[name], result.get(name)))
        if have != want:
            raise ValueError(f"the encoder's {name} does not fit the ViT: {have} instead of {want}")
        result[name] = params[name]
    if "pos_embed" in result:
        (rows, columns), _ = mae.check()
        prefix = vit.pos_embed_prefix_tokens()
        table = np.pad(sincos_2d(rows, columns, mae.width), ((prefix, 0), (0, 0)))[None]
        table = resize_positions(table, (rows, columns), vit.check(), prefix, method="bicubic")
        result["pos_embed"] = jnp.asarray(table, result["pos_embed"].dtype)
    return result


def encoder(mae: MAE) -> ViT:
    """The encoder as a headless ViT that sees all patches; its parameters are `mae`'s of the same
    names."""
    shared = {
        name: getattr(mae, name)
        for name in ("image_size", "patch_size", "width", "depth", "num_heads", "mlp_ratio")
        + ("scan_layers", "attention_implementation", "attention_weights", "dtype", "param_dtype")
    }
    return ViT(num_classes=0, pos_embed="sincos", **shared)


_PAPER = "He et al., Masked autoencoders are scalable vision learners, arXiv:2111.06377"
_SIZES = {
    "b16": dict(width=768, depth=12, num_heads=12),
    "l16": dict(width=1024, depth=24, num_heads=16),
    "h14": dict(patch_size=14, width=1280, depth=32, num_heads=16),
}
MODELS = {
    f"mae_vit_{size}": Entry(MAE, fields, 2021, _PAPER, task="reconstruction")
    for size, fields in _SIZES.items()
}
