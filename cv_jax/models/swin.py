"""Swin Transformer, versions 1 and 2.

Liu et al., "Swin Transformer: hierarchical vision Transformer using shifted windows", ICCV 2021,
arXiv:2103.14030: attention is inside windows, so its cost is linear in the image size. Every second
block shifts the windows by half their size, which connects neighbouring windows. Between stages 2×2
tokens merge into one token of twice the width.

Liu et al., "Swin Transformer V2: scaling up capacity and resolution", CVPR 2022, arXiv:2111.09883:
each branch is normalised at its end, attention scores are cosines with a learned temperature, and
the position bias is a small network of log-spaced offsets, so a new window size needs no resampled
table.

As in the official code: LayerNorm with epsilon 1e-5, a bias of −100 between tokens that only the
shift makes neighbours, kernels from N(0, 0.02). Maps of any size are padded with zeros at the
bottom and right. The references differ for maps that a window does not divide; see `window_rule`.
"""

import functools
from collections import OrderedDict
from collections.abc import Mapping

import flax.linen as nn
import jax
import numpy as np

from cv_jax.models import checks
from cv_jax.models.attention import FUSED, TENSOR_AXES
from cv_jax.models.encoder import POLICIES, REMAT_POLICIES, apply_mlp
from cv_jax.models.entry import Entry
from cv_jax.models.layers import POOLINGS, DropPath, Mlp, at_least_float32, drop_path_rates, pool
from cv_jax.models.window_attention import INIT, ZEROS, WindowAttention
from cv_jax.models.windows import (
    WINDOW_RULES,
    Size,
    arrange,
    as_bias,
    fit_window,
    pad_to,
    padded,
    resize_bias_table,
    restore,
    shift_mask,
)


class Block(nn.Module):
    """Attention inside windows, then an MLP, each with a shortcut.

    Version 1 normalises the input of a branch. Version 2 normalises its output with an initial
    scale of zero, so every block is initially the identity. Attributes as in `Swin`; `shifted` is
    True for every second block.
    """

    num_heads: int
    window_size: int
    shifted: bool
    mlp_ratio: float
    version: int
    window_rule: str
    pretrained_window: int
    dropout_rate: float
    drop_path_rate: float
    attention_weights: bool
    remat_policy: str
    dtype: str
    param_dtype: str

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> tuple[jax.Array, jax.Array | None]:
        """Map [B, H, W, D] → `(map, attention weights [B, windows, heads, T, T] or None)`."""
        types = dict(dtype=self.dtype, param_dtype=self.param_dtype)
        norm = dict(epsilon=1e-5, **types)
        if self.version == 2:
            norm["scale_init"] = ZEROS
        norm1, norm2 = nn.LayerNorm(**norm, name="norm1"), nn.LayerNorm(**norm, name="norm2")
        mlp = Mlp(
            int(x.shape[-1] * self.mlp_ratio),
            dropout_rate=self.dropout_rate,
            kernel_init=INIT,
            bias_init=ZEROS,
            **types,
            name="mlp",
        )
        drop_path, policy = DropPath(self.drop_path_rate), self.remat_policy
        if self.version == 1:
            y, weights = self._attend(norm1(x), train)
            x = x + drop_path(y, train=train)
            x = x + drop_path(apply_mlp(mlp, norm2(x), train, policy), train=train)
        else:
            y, weights = self._attend(x, train)
            x = x + drop_path(norm1(y), train=train)
            x = x + drop_path(norm2(apply_mlp(mlp, x, train, policy)), train=train)
        return x, weights if self.attention_weights else None

    def _attend(self, x: jax.Array, train: bool):
        size = x.shape[1:3]
        window, shift = fit_window(size, self.window_size, self.window_rule)
        if not self.shifted:
            shift = (0, 0)
        mask = None
        if any(shift):
            mask = as_bias(shift_mask(padded(size, window), window, shift))[:, None]
        x, weights = WindowAttention(
            self.num_heads,
            window,
            self.version,
            self.pretrained_window,
            self.dropout_rate,
            self.dtype,
            self.param_dtype,
            name="attn",
        )(arrange(x, window, shift, self.window_rule), mask, train=train)
        return restore(x, window, shift, self.window_rule, size), weights


class PatchMerging(nn.Module):
    """Merge four neighbouring tokens into one token of twice the width.

    The order of concatenation is top left, bottom left, top right, bottom right. Version 1
    normalises before the projection, version 2 after it.
    """

    version: int
    dtype: str
    param_dtype: str

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, H, W, D] → [B, ⌈H/2⌉, ⌈W/2⌉, 2·D]."""
        types = dict(dtype=self.dtype, param_dtype=self.param_dtype)
        norm = nn.LayerNorm(epsilon=1e-5, **types, name="norm")
        reduction = nn.Dense(
            2 * x.shape[-1], use_bias=False, kernel_init=INIT, **types, name="reduction"
        )
        x = pad_to(x, padded(x.shape[1:3], (2, 2)))
        batch, height, width, dim = x.shape
        x = x.reshape(batch, height // 2, 2, width // 2, 2, dim).transpose(0, 1, 3, 4, 2, 5)
        x = x.reshape(batch, height // 2, width // 2, 4 * dim)
        return reduction(norm(x)) if self.version == 1 else norm(reduction(x))


class Stage(nn.Module):
    """Patch merging, then blocks at one resolution; fields as in `Swin`."""

    drop_path_rates: tuple[float, ...]
    merge: bool
    shift: bool
    block: dict

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> tuple[jax.Array, OrderedDict]:
        """Map [B, H, W, D] → `(map, features)`: the map after merging and after each block."""
        features = OrderedDict()
        if self.merge:
            types = {k: self.block[k] for k in ("version", "dtype", "param_dtype")}
            x = features["downsample"] = PatchMerging(**types, name="downsample")(x)
        policy = REMAT_POLICIES.get(self.block["remat_policy"])
        module = Block if policy is None else nn.remat(Block, policy=policy, static_argnums=(2,))
        for i, rate in enumerate(self.drop_path_rates):
            shifted = self.shift and i % 2 == 1
            block = module(shifted=shifted, drop_path_rate=rate, **self.block, name=f"blocks_{i}")
            x, weights = block(x, train)
            if weights is not None:
                features[f"blocks_{i}/attention"] = weights
            features[f"blocks_{i}"] = x
        return x, features


class Swin(nn.Module):
    """Swin Transformer.

    Attributes:
      num_classes: size of the output; 0 gives the pooled features.
      version: 1 or 2.
      patch_size: side of a patch in pixels.
      width: token width of the first stage; doubles with each stage.
      depths: blocks of each stage.
      num_heads: attention heads of each stage.
      window_size: side of a window in tokens.
      shift: whether every second block shifts its windows.
      window_rule: treatment of maps that a window does not divide. "shrink" (official code, timm):
        on an axis no longer than the window, the window shrinks to the axis, and so does the bias
        table; maps are rolled, then padded. "pad" (torchvision): the window is not changed; maps
        are padded, then rolled.
      pretrained_windows: version 2: side of each stage's window in pre-training, which scales the
        offsets; 0 for the window itself. One value is for all stages.
      mlp_ratio: hidden width of the MLPs over the token width.
      pool: pooling of the last map, one of `layers.POOLINGS`.
      dropout_rate: dropped share after the embedding, attention and MLP layers.
      drop_path_rate: stochastic depth of the last block; grows linearly from 0 at the first block.
      remat_policy: intermediates kept for the backward pass, one of `encoder.POLICIES`.
      attention_weights: whether `features` hold the attention weights.
      dtype: dtype of the computation.
      param_dtype: dtype of the parameters.

    Rngs: `dropout` when training with either rate > 0.
    """

    num_classes: int = 1000
    version: int = 1
    patch_size: int = 4
    width: int = 96
    depths: tuple[int, ...] = (2, 2, 6, 2)
    num_heads: tuple[int, ...] = (3, 6, 12, 24)
    window_size: int = 7
    shift: bool = True
    window_rule: str = "shrink"
    pretrained_windows: tuple[int, ...] = (0,)
    mlp_ratio: float = 4.0
    pool: str = "mean"
    dropout_rate: float = 0.0
    drop_path_rate: float = 0.0
    remat_policy: str = "none"
    attention_weights: bool = False
    dtype: str = "float32"
    param_dtype: str = "float32"

    def check(self) -> None:
        """Raise a ValueError if a field is invalid, or two fields exclude each other."""
        checks.one_of("version", self.version, (1, 2))
        checks.one_of("window_rule", self.window_rule, WINDOW_RULES)
        checks.one_of("pool", self.pool, POOLINGS)
        checks.one_of("remat_policy", self.remat_policy, POLICIES)
        for field in ("drop_path_rate", "dropout_rate"):
            checks.rate(field, getattr(self, field))
        for field in ("patch_size", "window_size", "width"):
            checks.positive(field, [getattr(self, field)])
        checks.positive("depths", self.depths)
        checks.positive("num_heads", self.num_heads)
        needs = f"needs one value for each of depths {self.depths}"
        if len(self.num_heads) != len(self.depths):
            raise ValueError(f"num_heads {self.num_heads} {needs}")
        if len(self.pretrained_windows) not in (1, len(self.depths)):
            raise ValueError(
                f"pretrained_windows {self.pretrained_windows} needs one value, or one for each of "
                f"depths {self.depths}"
            )
        for stage, heads in enumerate(self.num_heads):
            if self.width * 2**stage % heads:
                raise ValueError(
                    f"num_heads {heads} does not divide width {self.width * 2**stage} of stage "
                    f"{stage}"
                )

    def window_tokens(self, image_size: Size) -> dict[str, np.ndarray]:
        """Return the tokens of each window of each block.

        Args:
          image_size: height and width of the images.

        Returns:
          Name of the block's attention weights in `features` → int [windows, T], the index of every
          token in its map [h·w], row by row; −1 for padding.
        """
        # One compiled program for each shape and shift, not one for each operation.
        compiled = jax.jit(arrange, static_argnums=(1, 2, 3))
        size, found = tuple(-(-side // self.patch_size) for side in image_size), {}
        for stage, depth in enumerate(self.depths):
            index = 1 + np.arange(size[0] * size[1], dtype=np.int32).reshape(1, *size, 1)
            for block in range(depth):
                window, shift = fit_window(size, self.window_size, self.window_rule)
                shift = shift if self.shift and block % 2 else (0, 0)
                tokens = np.asarray(compiled(index, window, shift, self.window_rule))[0, :, :, 0]
                found[f"layers_{stage}/blocks_{block}/attention"] = tokens - 1
            size = tuple(-(-side // 2) for side in size)
        return found

    @nn.compact
    def __call__(self, image: jax.Array, *, train: bool = False):
        """Return the logits of float images [B, H, W, C] of any size.

        Returns:
          `(logits float32 [B, num_classes], features)`: the maps [B, h, w, D] after the embedding
          (`"embed"`), every merging (`"layers_<s>/downsample"`), every block
          (`"layers_<s>/blocks_<i>"`) and the last norm, and `"pre_logits"` [B, D]; with
          `attention_weights` also `"layers_<s>/blocks_<i>/attention"` [B, windows, heads, T, T].

        Raises:
          ValueError: see `check`.
        """
        self.check()
        types = dict(dtype=self.dtype, param_dtype=self.param_dtype)
        features = OrderedDict()
        patch = (self.patch_size,) * 2
        x = pad_to(image, padded(image.shape[1:3], patch))
        x = nn.Conv(self.width, patch, patch, padding="VALID", **types, name="patch_embed")(x)
        x = nn.LayerNorm(epsilon=1e-5, **types, name="patch_norm")(x)
        x = features["embed"] = nn.Dropout(self.dropout_rate, deterministic=not train)(x)

        rates = drop_path_rates(self.drop_path_rate, sum(self.depths))
        given = self.pretrained_windows
        pretrained = given * len(self.depths) if len(given) == 1 else given
        for stage, depth in enumerate(self.depths):
            done = sum(self.depths[:stage])
            block = dict(
                num_heads=self.num_heads[stage],
                window_size=self.window_size,
                mlp_ratio=self.mlp_ratio,
                version=self.version,
                window_rule=self.window_rule,
                pretrained_window=pretrained[stage],
                dropout_rate=self.dropout_rate,
                attention_weights=self.attention_weights,
                remat_policy=self.remat_policy,
                **types,
            )
            stage_rates = tuple(rates[done : done + depth])
            module = Stage(stage_rates, stage > 0, self.shift, block, name=f"layers_{stage}")
            x, stage_features = module(x, train=train)
            features.update({f"layers_{stage}/{k}": v for k, v in stage_features.items()})
        x = features["norm"] = nn.LayerNorm(epsilon=1e-5, **types, name="norm")(x)
        x = features["pre_logits"] = pool(x, self.pool, (1, 2))
        if self.num_classes:
            x = nn.Dense(self.num_classes, kernel_init=INIT, **types, name="head")(x)
        return at_least_float32(x), features


def stage_windows(model: Swin, image_size: Size) -> list[Size]:
    """Return height and width of the window of each stage for images of this size."""
    size = tuple(-(-side // model.patch_size) for side in image_size)
    windows = []
    for _ in model.depths:
        windows.append(fit_window(size, model.window_size, model.window_rule)[0])
        size = tuple(-(-side // 2) for side in size)
    return windows


def resize(
    params: Mapping,
    old: Swin,
    old_size: Size,
    new: Swin,
    new_size: Size,
    method: str = "bicubic",
) -> dict:
    """Fit the parameters of a Swin to another window or image size.

    Version 1 resamples the bias tables (see `windows.resize_bias_table`). Version 2 has no tables;
    set `pretrained_windows` of `new` to the old windows.

    Args:
      params: the `params` collection of `old`.
      old: the model of the parameters.
      old_size: height and width of its images.
      new: the model of the result.
      new_size: height and width of its images.
      method: "bicubic" as in the official code, "geometric" as in timm.

    Raises:
      ValueError: a table does not fit `old`, or the method is unknown.
    """
    params = dict(params)
    windows = zip(stage_windows(old, old_size), stage_windows(new, new_size), strict=True)
    for stage, (before, after) in enumerate(windows):
        blocks = dict(params[f"layers_{stage}"])
        for name, block in blocks.items():
            if "relative_position_bias_table" in block.get("attn", {}):
                table = block["attn"]["relative_position_bias_table"]
                table = resize_bias_table(table, before, after, method)
                attn = {**block["attn"], "relative_position_bias_table": table}
                blocks[name] = {**block, "attn": attn}
        params[f"layers_{stage}"] = blocks
    return params


_PAPERS = {
    1: "Liu et al., Swin Transformer, arXiv:2103.14030",
    2: "Liu et al., Swin Transformer V2, arXiv:2111.09883",
}
_SIZES = {
    "t": dict(width=96, depths=(2, 2, 6, 2), num_heads=(3, 6, 12, 24)),
    "s": dict(width=96, depths=(2, 2, 18, 2), num_heads=(3, 6, 12, 24)),
    "b": dict(width=128, depths=(2, 2, 18, 2), num_heads=(4, 8, 16, 32)),
    "l": dict(width=192, depths=(2, 2, 18, 2), num_heads=(6, 12, 24, 48)),
}
_entry = functools.partial(
    Entry,
    Swin,
    layer_order=(
        r"patch_(?:embed|norm)/.*",
        r"layers_(\d+)/(?:downsample|blocks_(\d+))/.*",
    ),
    first_layers=("patch_embed", r".*/cpb_mlp_\d"),  # coordinates to biases
    fused=FUSED,
    undecayed="bias|scale|relative_position_bias_table|cpb_mlp.*",
    tensor_axes=TENSOR_AXES,
)
MODELS = {
    **{f"swin_{size}": _entry(fields, 2021, _PAPERS[1]) for size, fields in _SIZES.items()},
    **{
        f"swinv2_{size}": _entry(
            {**_SIZES[size], "version": 2, "window_size": 8},
            2021,
            _PAPERS[2],
            image_size=(256, 256),
        )
        for size in ("t", "s", "b")
    },
}
