"""Masked autoencoder.

He et al., "Masked autoencoders are scalable vision learners", CVPR 2022, arXiv:2111.06377. Three
quarters of the patches are removed. A ViT encoder reads only the other patches, which makes
pre-training cheap. A narrow decoder with mask tokens in place of the removed patches predicts their
pixels. After pre-training `to_vit` copies the encoder into a ViT; the decoder is dropped.

Follows the official code: fixed sine-cosine positions (zero for the class token), Glorot-uniform
kernels with queries, keys and values as one matrix and the patch embedding as a matrix of flattened
patches, LayerNorm with epsilon 1e-6, class and mask tokens from N(0, 0.02). The decoder of every
encoder has width 512, 8 blocks and 16 heads.
"""

from collections import OrderedDict
from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cv_jax.models import checks, masking
from cv_jax.models.attention import FUSED, TENSOR_AXES
from cv_jax.models.encoder import check_blocks, run_blocks
from cv_jax.models.entry import Entry
from cv_jax.models.layers import at_least_float32
from cv_jax.models.positions import resize_positions, sincos_2d
from cv_jax.models.vit import UNDECAYED, ViT, patch_grid


def unshuffle(kept: jax.Array, mask_token: jax.Array, restore: jax.Array) -> jax.Array:
    """Return tokens [B, L, D]: kept ones [B, keep, D] at their patches, others `mask_token` [D]."""
    batch, keep, dim = kept.shape
    removed = jnp.broadcast_to(mask_token, (batch, restore.shape[1] - keep, dim))
    tokens = jnp.concatenate([kept, removed.astype(kept.dtype)], axis=1)
    return jnp.take_along_axis(tokens, restore[:, :, None], axis=1)


def patchify(image: jax.Array, patch_size: int) -> jax.Array:
    """[B, H, W, C] → [B, patches, patch_size²·C]; a patch is flattened row by row."""
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


def target(image: jax.Array, patch_size: int, normalize: bool) -> jax.Array:
    """Return what the decoder learns to predict: pixels of patches [B, L, patch_size²·C].

    Args:
      image: [B, H, W, C], the input of the model.
      patch_size: side of a patch.
      normalize: standardise the pixels of each patch; see `_statistics`.
    """
    patches = patchify(image, patch_size)
    if normalize:
        mean, deviation = _statistics(patches)
        patches = (patches - mean) / deviation
    return patches


def _statistics(patches: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean, and root of the (unbiased) variance plus 1e-6, of the pixels of each patch."""
    mean = patches.mean(axis=-1, keepdims=True)
    return mean, jnp.sqrt(patches.var(axis=-1, keepdims=True, ddof=1) + 1e-6)


def reconstruction_loss(
    image: jax.Array,
    prediction: jax.Array,
    mask: jax.Array,
    patch_size: int,
    normalize: bool = True,
) -> jax.Array:
    """Mean squared error over the removed patches of each example: float [B].

    All examples have the same number of removed patches, so the mean over the batch is the official
    loss.

    Args:
      image: [B, H, W, C], the input of the model.
      prediction: [B, L, patch_size²·C].
      mask: [B, L], 1 for removed patches.
      patch_size: side of a patch.
      normalize: whether the target is standardised; see `target`.
    """
    error = prediction - target(image.astype(prediction.dtype), patch_size, normalize)
    error = jnp.square(error).mean(axis=-1)
    return (error * mask).sum(axis=1) / mask.sum(axis=1)


def reconstruction(
    image: jax.Array, prediction: jax.Array, patch_size: int, normalize: bool = True
) -> jax.Array:
    """Return predicted patches as images [B, H, W, C], in the units of the input.

    A standardised prediction has no mean and no contrast. It gets those of the patches of `image`,
    which the model has not seen where patches are removed.

    Args:
      image: [B, H, W, C], the input of the model.
      prediction: [B, L, patch_size²·C].
      patch_size: side of a patch.
      normalize: whether the target was standardised; see `target`.
    """
    if normalize:
        mean, deviation = _statistics(patchify(image, patch_size))
        prediction = prediction * deviation + mean
    grid = image.shape[1] // patch_size, image.shape[2] // patch_size
    return unpatchify(prediction, patch_size, grid)


def _patch_init(key, shape, dtype=jnp.float32):
    """Glorot-uniform initialisation of the kernel as a matrix from patch pixels to a token."""
    matrix = (shape[0] * shape[1] * shape[2], shape[3])
    return nn.initializers.xavier_uniform()(key, matrix, dtype).reshape(shape)


class MAE(nn.Module):
    """Masked autoencoder: image → pixels of its patches.

    Attributes:
      image_size: side of the square input in pixels, or (height, width).
      patch_size: side of a patch in pixels; must divide the image.
      width: token width of the encoder.
      depth: number of encoder blocks.
      num_heads: attention heads of the encoder.
      mlp_ratio: hidden width of the MLPs over the token width, in encoder and decoder.
      decoder_width: token width of the decoder.
      decoder_depth: number of decoder blocks.
      decoder_num_heads: attention heads of the decoder.
      mask_ratio: share of removed patches.
      masking: how they are chosen, one of `masking.SAMPLINGS` (table 1f).
      norm_pix_loss: whether the target is standardised in each patch, as the paper recommends, or
        has the pixels of the input (table 1d); no effect on the output.
      norm_epsilon: constant under the root of every LayerNorm.
      scan_layers: one scanned block instead of unrolled blocks; see encoder.py.
      remat_policy: intermediates kept for the backward pass, one of `encoder.POLICIES`.
      attention_implementation: one of `attention.IMPLEMENTATIONS`.
      attention_weights: whether `features` hold the attention weights.
      dtype: dtype of the computation.
      param_dtype: dtype of the parameters.

    Rngs: `mask`, if no noise is passed.
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
    masking: str = "random"
    norm_pix_loss: bool = True
    norm_epsilon: float = 1e-6
    scan_layers: bool = False
    remat_policy: str = "none"
    attention_implementation: str = "xla"
    attention_weights: bool = False
    dtype: str = "float32"
    param_dtype: str = "float32"

    def check(self) -> tuple[tuple[int, int], int]:
        """Return patches along height and width, and the number of kept patches.

        Raises:
          ValueError: a field is invalid, or two fields exclude each other.
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
        checks.one_of("masking", self.masking, masking.SAMPLINGS)
        masking.check(self.masking, grid, keep)
        return grid, keep

    @nn.compact
    def __call__(self, image: jax.Array, noise: jax.Array | None = None, *, train: bool = False):
        """Predict the patches of float images [B, H, W, C].

        Args:
          image: the images, normalised.
          noise: float [B, patches], uniform random numbers that determine the removed patches;
            default: drawn from the stream `mask`.
          train: no effect, because the model has no dropout.

        Returns:
          `(prediction float32 [B, patches, patch_size²·C], features)`: the encoder's tokens
          [B, 1 + kept, D] after the embedding (`"embed"`), each block and the last norm (`"norm"`);
          `"mask"` float32 [B, patches], 1 for removed patches; the decoder's tokens
          [B, 1 + patches, D'] after its embedding and each block; and `"pre_logits"`
          [B, patches, D']. The loss is `reconstruction_loss(image, prediction, features["mask"],
          patch_size, norm_pix_loss)`.

        Raises:
          ValueError: see `check`; or the image is not of `image_size`.
        """
        (rows, columns), keep = self.check()
        expected = (rows * self.patch_size, columns * self.patch_size)
        if image.shape[1:3] != expected:
            raise ValueError(
                f"image is {image.shape[1]}x{image.shape[2]}, the model expects "
                f"{expected[0]}x{expected[1]}; set image_size"
            )
        types = dict(dtype=self.dtype, param_dtype=self.param_dtype)
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
        scores = masking.SAMPLINGS[self.masking](noise, (rows, columns), keep)
        kept, restore, mask = masking.select(scores, keep)
        x = jnp.take_along_axis(x, kept[:, :, None], axis=1)
        token = nn.initializers.normal(0.02)
        cls_token = self.param("cls_token", token, (1, 1, self.width), self.param_dtype)
        cls_token = jnp.broadcast_to(cls_token.astype(x.dtype), (batch, 1, self.width))
        x = features["embed"] = jnp.concatenate([cls_token, x], axis=1)
        x = self._run_blocks(x, features, train, "blocks", self.depth, self.num_heads)
        x = features["norm"] = nn.LayerNorm(epsilon=self.norm_epsilon, **types, name="norm")(x)
        features["mask"] = mask
        x = self._decode(x, features, restore, (rows, columns), train)
        pixels = self.patch_size**2 * image.shape[-1]
        dense = nn.Dense(
            pixels, kernel_init=nn.initializers.xavier_uniform(), **types, name="decoder_pred"
        )
        return at_least_float32(dense(x)), features

    def _decode(self, x, features, restore, grid, train) -> jax.Array:
        """Tokens of the encoder [B, 1 + kept, D] → tokens of the patches [B, patches, D']."""
        types = dict(dtype=self.dtype, param_dtype=self.param_dtype)
        width = self.decoder_width
        dense = nn.Dense(
            width, kernel_init=nn.initializers.xavier_uniform(), **types, name="decoder_embed"
        )
        x = dense(x)
        token = nn.initializers.normal(0.02)
        mask_token = self.param("mask_token", token, (1, 1, width), self.param_dtype)
        patches = unshuffle(x[:, 1:], mask_token[0, 0], restore)
        patches = patches + sincos_2d(*grid, width).astype(x.dtype)
        x = features["decoder_embed"] = jnp.concatenate([x[:, :1], patches], axis=1)
        depth, heads = self.decoder_depth, self.decoder_num_heads
        x = self._run_blocks(x, features, train, "decoder_blocks", depth, heads)
        x = nn.LayerNorm(epsilon=self.norm_epsilon, **types, name="decoder_norm")(x)
        x = features["pre_logits"] = x[:, 1:]
        return x

    def _run_blocks(self, x, features, train, name, depth, num_heads) -> jax.Array:
        """Apply a stack of blocks to tokens, and add their features."""
        x, block_features = run_blocks(
            x,
            depth=depth,
            num_heads=num_heads,
            name=name,
            train=train,
            scan=self.scan_layers,
            remat_policy=self.remat_policy,
            mlp_ratio=self.mlp_ratio,
            norm_epsilon=self.norm_epsilon,
            implementation=self.attention_implementation,
            attention_weights=self.attention_weights,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
        )
        features.update(block_features)
        return x


def to_vit(params: Mapping, mae: MAE, vit_params: Mapping, vit: ViT) -> dict:
    """Return the parameters of a ViT with the pre-trained encoder.

    Patch embedding, class token, blocks and last norm are copied from the encoder. The head, and
    with `fc_norm` this norm, stay newly initialised. Learned positions become the encoder's fixed
    positions, resampled without antialiasing if the grids differ.

    Args:
      params: the `params` collection of `mae`.
      mae: the pre-trained model.
      vit_params: newly initialised parameters of `vit`.
      vit: the model to fine-tune or probe, with the width, depth, heads, patch size and
        `scan_layers` of `mae`.

    Raises:
      ValueError: the encoder does not fit into `vit`; the message names the first parameter.
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
    """Return the encoder as a ViT without a head that reads all patches.

    Its parameters have the same names as in `mae`.
    """
    names = (
        *("image_size", "patch_size", "width", "depth", "num_heads", "mlp_ratio", "norm_epsilon"),
        *("scan_layers", "attention_implementation", "attention_weights", "dtype", "param_dtype"),
    )
    shared = {name: getattr(mae, name) for name in names}
    return ViT(num_classes=0, pos_embed="sincos", **shared)


_PAPER = "He et al., Masked autoencoders are scalable vision learners, arXiv:2111.06377"
_SIZES = {
    "b16": dict(width=768, depth=12, num_heads=12),
    "l16": dict(width=1024, depth=24, num_heads=16),
    "h14": dict(patch_size=14, width=1280, depth=32, num_heads=16),
}
MODELS = {
    f"mae_vit_{size}": Entry(
        MAE,
        fields,
        2021,
        _PAPER,
        task="reconstruction",
        layer_order=(
            r"(?:patch_embed/.*|cls_token)",
            r"blocks_(\d+)/.*",
            r"(?:norm/.*|decoder_embed/.*|mask_token)",
            r"decoder_blocks_(\d+)/.*",
        ),
        first_layers=("patch_embed",),
        last_layers=("decoder_pred",),
        fused=FUSED,
        undecayed=UNDECAYED,
        tensor_axes=TENSOR_AXES,
        converters={ViT: to_vit},
    )
    for size, fields in _SIZES.items()
}
