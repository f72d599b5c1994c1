"""Residual networks, and plain networks for comparison.

He, Zhang, Ren and Sun, "Deep residual learning for image recognition", CVPR 2016, arXiv:1512.03385:
blocks add to their input, which makes deep networks trainable: 34 plain layers are worse than 18,
152 residual layers are better. One module has all variants:

- `resnet18` … `resnet152` are v1.5, as in torchvision and timm: the 3×3 convolution of a bottleneck
  has the stride. In `resnet50_v1` the first 1×1 convolution has it, as in the paper.
- `plain18`, `plain34` and `plain*_cifar` are the same networks without shortcuts.
- `resnet{6n+2}_cifar`: section 4.2, three stages of n blocks at 16, 32, 64 channels on 32×32
  images, shortcut A.
- `resnet50_preact`: He et al., "Identity mappings in deep residual networks", ECCV 2016,
  arXiv:1603.05027. Normalisation and ReLU precede each convolution, and no layer follows the
  addition. As in timm's `resnetv2_50`, strides are those of v1.5 and the first activation follows
  the pooling; where the dimension changes, the input of the shortcut is the first activation.
- Wide networks (Zagoruyko and Komodakis, 2016, arXiv:1605.07146) and ResNeXt (Xie et al., 2017,
  arXiv:1611.05431) are set by fields: `width_per_group=128`; `groups=32, width_per_group=4`.

Shortcuts, section 4.1: where the dimension changes, A pads with zero channels and B projects by a
1×1 convolution; C projects in every block. Kernels are initialised by He's normal distribution with
fan-out, the classifier by U(±1/√fan-in) with zero bias. With `zero_init_residual` every block is
initially the identity (Goyal et al., 2017, arXiv:1706.02677, section 5.1), as in timm; torchvision
does not do this.

Parameters have torchvision's names; the classifier is `head`, the last norm before it is `norm`.
"""

import functools
import math
from collections import OrderedDict

import flax.linen as nn
import jax
import jax.numpy as jnp

from cv_jax.models import checks
from cv_jax.models.batch_norm import BatchNorm
from cv_jax.models.conv_layers import he_fan_out, uniform_fan_in
from cv_jax.models.encoder import REMAT_POLICIES
from cv_jax.models.entry import Entry
from cv_jax.models.layers import POOLINGS, DropPath, at_least_float32, drop_path_rates, pool
from cv_jax.models.pooling import max_pool

BLOCKS = {"basic": 1, "bottleneck": 4}  # block → output channels over the width of the stage
SHORTCUTS = ("A", "B", "C", "none")
STRIDES = ("3x3", "1x1")
STEMS = ("imagenet", "cifar")
NORMS = ("batch", "none")


def pad_shortcut(x: jax.Array, channels: int, stride: int) -> jax.Array:
    """Return shortcut A: every `stride`-th pixel, with zeros in the additional channels.

    [B, H, W, C] → [B, ⌈H/stride⌉, ⌈W/stride⌉, channels].

    Raises:
      ValueError: `x` has more than `channels` channels.
    """
    if x.shape[-1] > channels:
        raise ValueError(
            f"shortcut A cannot reduce {x.shape[-1]} channels to {channels}; use shortcut B or C"
        )
    x = x[:, ::stride, ::stride]
    return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, channels - x.shape[-1])))


class Block(nn.Module):
    """Residual block: a branch of two or three convolutions plus a shortcut.

    Attributes:
      convs: (channels, kernel size, stride, groups) of each convolution of the branch.
      shortcut: one of `SHORTCUTS`.
      preact: normalisation and ReLU before the convolutions instead of after them.
      zero_init: the branch is initially zero.
      drop_path_rate: probability of dropping one example's branch.
      norm, axis_name, dtype, param_dtype: as in `ResNet`.
    """

    convs: tuple[tuple[int, int, int, int], ...]
    shortcut: str
    preact: bool
    zero_init: bool
    drop_path_rate: float
    norm: str
    axis_name: str | None
    dtype: str
    param_dtype: str

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """[B, H, W, C] → [B, ⌈H/stride⌉, ⌈W/stride⌉, channels of the last convolution]."""
        types = dict(dtype=self.dtype, param_dtype=self.param_dtype)
        zeros, ones = nn.initializers.zeros, nn.initializers.ones

        def conv(x, channels, size, stride, groups, name, zero=False):
            layer = nn.Conv(
                channels,
                (size, size),
                strides=stride,
                padding=size // 2,
                feature_group_count=groups,
                use_bias=self.norm == "none",
                kernel_init=zeros if zero else he_fan_out,
                **types,
                name=name,
            )
            return layer(x)

        def norm(x, name, zero=False):
            if self.norm == "none":
                return x
            scale_init = zeros if zero else ones
            layer = BatchNorm(scale_init=scale_init, axis_name=self.axis_name, **types, name=name)
            return layer(x, train=train)

        y = entry = x
        for i, (channels, size, stride, groups) in enumerate(self.convs, 1):
            last = i == len(self.convs)
            if self.preact:
                y = nn.relu(norm(y, f"bn{i}"))
                entry = y if i == 1 else entry
                y = conv(y, channels, size, stride, groups, f"conv{i}", self.zero_init and last)
            else:
                y = conv(y, channels, size, stride, groups, f"conv{i}")
                y = norm(y, f"bn{i}", self.zero_init and last)
                y = y if last else nn.relu(y)

        if self.shortcut != "none":
            channels = y.shape[-1]
            stride = math.prod(stride for _, _, stride, _ in self.convs)
            changes = stride != 1 or x.shape[-1] != channels
            if self.shortcut == "A" and changes:
                x = pad_shortcut(entry, channels, stride)
            elif self.shortcut == "C" or changes:
                x = conv(entry, channels, 1, stride, 1, "downsample_0")
                x = x if self.preact else norm(x, "downsample_1")
            y = x + DropPath(self.drop_path_rate)(y, train=train)
        return y if self.preact else nn.relu(y)


class ResNet(nn.Module):
    """Stem, stages of residual blocks, pooling over positions, linear classifier.

    Attributes:
      num_classes: size of the output; 0 gives the pooled last maps.
      stage_sizes: blocks of each stage; every stage but the first halves the resolution.
      widths: channels of each stage; a bottleneck block has four times as many output channels.
      stem_width: channels of the first convolution.
      stem: "imagenet": 7×7 with stride 2, then 3×3 max pooling with stride 2; "cifar": one 3×3.
      block: "basic" (two 3×3) or "bottleneck" (1×1, 3×3, 1×1).
      shortcut: "A", "B", "C", or "none" for a plain network.
      stride_in: the convolution of a bottleneck that halves the resolution, "3x3" or "1x1".
      preact: pre-activation (v2) blocks.
      groups: groups of a bottleneck's 3×3 convolution.
      width_per_group: channels of a group in a stage of width 64; proportional to the width.
      norm: "batch": batch normalisation of every convolution; "none": biases instead, without the
        published networks' way to train (for comparisons).
      zero_init_residual: every branch is initially zero: its last scale, or with `preact` its last
        kernel.
      pool: pooling of the last maps, one of `layers.POOLINGS`.
      drop_path_rate: stochastic depth of the last block; grows linearly from 0 at the first block.
      remat_policy: intermediates kept for the backward pass, one of `encoder.REMAT_POLICIES`.
      axis_name: mesh axis of the statistics of batch normalisation in the per-device view.
      dtype: dtype of the computation.
      param_dtype: dtype of the parameters.

    Rngs: `dropout` when training with `drop_path_rate` > 0. Variables: `batch_stats` with
    `norm="batch"`, mutable in training.
    """

    num_classes: int = 1000
    stage_sizes: tuple[int, ...] = (3, 4, 6, 3)
    widths: tuple[int, ...] = (64, 128, 256, 512)
    stem_width: int = 64
    stem: str = "imagenet"
    block: str = "bottleneck"
    shortcut: str = "B"
    stride_in: str = "3x3"
    preact: bool = False
    groups: int = 1
    width_per_group: int = 64
    norm: str = "batch"
    zero_init_residual: bool = False
    pool: str = "mean"
    drop_path_rate: float = 0.0
    remat_policy: str = "none"
    axis_name: str | None = None
    dtype: str = "float32"
    param_dtype: str = "float32"

    def check(self) -> None:
        """Raise a ValueError if a field is invalid, or two fields exclude each other."""
        if len(self.stage_sizes) != len(self.widths):
            raise ValueError(
                f"stage_sizes and widths must have equal lengths, got {len(self.stage_sizes)} "
                f"and {len(self.widths)}"
            )
        for field in ("stage_sizes", "widths"):
            checks.positive(field, getattr(self, field))
        for field in ("stem_width", "groups", "width_per_group"):
            checks.positive(field, [getattr(self, field)])
        checks.one_of("stem", self.stem, STEMS)
        checks.one_of("block", self.block, BLOCKS)
        checks.one_of("shortcut", self.shortcut, SHORTCUTS)
        checks.one_of("stride_in", self.stride_in, STRIDES)
        checks.one_of("pool", self.pool, POOLINGS)
        checks.one_of("norm", self.norm, NORMS)
        checks.rate("drop_path_rate", self.drop_path_rate)
        checks.one_of("remat_policy", self.remat_policy, REMAT_POLICIES)
        if self.block == "basic" and (self.groups, self.width_per_group) != (1, 64):
            raise ValueError("groups and width_per_group belong to block 'bottleneck', not 'basic'")
        if any(width * self.width_per_group % 64 for width in self.widths):
            raise ValueError(
                f"width_per_group {self.width_per_group} gives no whole number of channels: "
                f"width · {self.width_per_group} / 64 for widths {self.widths}"
            )
        if self.shortcut == "none" and (self.zero_init_residual or self.drop_path_rate):
            raise ValueError(
                "zero_init_residual and drop_path_rate need a shortcut, got shortcut 'none'"
            )
        if self.norm == "none" and self.zero_init_residual and not self.preact:
            raise ValueError("zero_init_residual sets scales, which norm 'none' does not have")

    def convs(self, width: int, stride: int) -> tuple[tuple[int, int, int, int], ...]:
        """Return (channels, kernel size, stride, groups) of each convolution of a block."""
        if self.block == "basic":
            return (width, 3, stride, 1), (width, 3, 1, 1)
        inner = width * self.width_per_group // 64 * self.groups
        first, second = (stride, 1) if self.stride_in == "1x1" else (1, stride)
        return (
            (inner, 1, first, 1),
            (inner, 3, second, self.groups),
            (width * BLOCKS["bottleneck"], 1, 1, 1),
        )

    @nn.compact
    def __call__(self, image: jax.Array, *, train: bool = False):
        """Return the logits of float images [B, H, W, C] of any size.

        Returns:
          `(logits float32 [B, num_classes], features)`: the maps [B, h, w, c] after the stem and
          after each block (`layer1_0` …), with `preact` the activated last maps (`norm`), and
          `"pre_logits"` [B, c]; [B, 2·c] with pool "concat".

        Raises:
          ValueError: see `check`.
        """
        self.check()
        types = dict(dtype=self.dtype, param_dtype=self.param_dtype)
        features = OrderedDict()

        def norm(x, name):
            if self.norm == "none":
                return nn.relu(x)
            layer = BatchNorm(axis_name=self.axis_name, **types, name=name)
            return nn.relu(layer(x, train=train))

        size, stride = (7, 2) if self.stem == "imagenet" else (3, 1)
        conv = nn.Conv(
            self.stem_width,
            (size, size),
            strides=stride,
            padding=size // 2,
            use_bias=self.norm == "none",
            kernel_init=he_fan_out,
            **types,
            name="conv1",
        )
        x = conv(image.astype(self.dtype))
        x = x if self.preact else norm(x, "bn1")
        if self.stem == "imagenet":
            x = max_pool(x, 3, stride=2, padding=1)
        features["stem"] = x

        module = Block
        if self.remat_policy != "none":
            policy = REMAT_POLICIES[self.remat_policy]
            module = nn.remat(Block, policy=policy, static_argnums=(2,))
        rates = iter(drop_path_rates(self.drop_path_rate, sum(self.stage_sizes)))
        for stage, (blocks, width) in enumerate(zip(self.stage_sizes, self.widths, strict=True), 1):
            for i in range(blocks):
                block = module(
                    self.convs(width, stride=2 if stage > 1 and i == 0 else 1),
                    self.shortcut,
                    self.preact,
                    self.zero_init_residual,
                    next(rates),
                    self.norm,
                    self.axis_name,
                    **types,
                    name=f"layer{stage}_{i}",
                )
                x = features[f"layer{stage}_{i}"] = block(x, train)
        if self.preact:
            x = features["norm"] = norm(x, "norm")

        x = features["pre_logits"] = pool(x, self.pool, (1, 2))
        if self.num_classes:
            x = nn.Dense(self.num_classes, kernel_init=uniform_fan_in, **types, name="head")(x)
        return at_least_float32(x), features


_PAPER = "He, Zhang, Ren and Sun, Deep residual learning for image recognition, arXiv:1512.03385"
_PREACT = "He, Zhang, Ren and Sun, Identity mappings in deep residual networks, arXiv:1603.05027"
_SIZES = {
    18: dict(block="basic", stage_sizes=(2, 2, 2, 2)),
    34: dict(block="basic", stage_sizes=(3, 4, 6, 3)),
    50: dict(stage_sizes=(3, 4, 6, 3)),
    101: dict(stage_sizes=(3, 4, 23, 3)),
    152: dict(stage_sizes=(3, 8, 36, 3)),
}
_CIFAR = dict(stem="cifar", stem_width=16, widths=(16, 32, 64), block="basic", num_classes=10)


_entry = functools.partial(
    Entry,
    ResNet,
    layer_order=(r"(?:conv1|bn1)/.*", r"layer(\d+)_(\d+)/.*"),
    first_layers=("conv1",),
    fused=lambda model: {"conv2": model.groups},
)


def _cifar(depth: int, shortcut: str) -> Entry:
    """Return the entry of a network with `depth` = 6n + 2 layers."""
    blocks = (depth - 2) // 6
    fields = dict(_CIFAR, stage_sizes=(blocks,) * 3, shortcut=shortcut)
    return _entry(fields, 2015, _PAPER, image_size=(32, 32))


MODELS = {
    **{f"resnet{depth}": _entry(size, 2015, _PAPER) for depth, size in _SIZES.items()},
    "resnet50_v1": _entry(dict(_SIZES[50], stride_in="1x1"), 2015, _PAPER),
    "resnet50_preact": _entry(dict(_SIZES[50], preact=True), 2016, _PREACT),
    **{
        f"plain{depth}": _entry(dict(_SIZES[depth], shortcut="none"), 2015, _PAPER)
        for depth in (18, 34)
    },
    **{f"resnet{n}_cifar": _cifar(n, "A") for n in (8, 20, 32, 44, 56, 110, 1202)},
    **{f"plain{n}_cifar": _cifar(n, "none") for n in (8, 20, 32, 44, 56, 110)},
}
