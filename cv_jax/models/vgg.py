"""VGG: deep networks of 3×3 convolutions.

Simonyan and Zisserman, "Very deep convolutional networks for large-scale image recognition", ICLR
2015, arXiv:1409.1556. Two 3×3 filters have the receptive field of one 5×5 filter and three that of
one 7×7 filter, with fewer weights and more activations. Columns of Table 1: `vgg11` A,
`vgg11_lrn` A-LRN, `vgg13` B, `vgg16_c` C (1×1 as the last filter of stages 3 to 5), `vgg16` D,
`vgg19` E. `_bn` adds batch normalisation after each convolution, as in torchvision.

The paper trains network A from N(0, σ² = 0.01) and initialises deeper networks with layers of A. It
adds that Glorot's initialisation ("glorot" here) makes this unnecessary. The default is He's
initialisation (arXiv:1502.01852, for networks of this kind): with fan-out in the convolutions, as
in torchvision, and with fan-in in the fully connected layers, where torchvision's N(0, 0.01) fits
only the published widths.

The smallest image is 32 pixels: the last maps are averaged (or repeated, as in torchvision) to
`pool_size`, so the weights fit any image. For 32 pixels use `pool_size=1`. Parameters have
torchvision's names; the classifier is `head`.
"""

import functools
from collections import OrderedDict

import flax.linen as nn
import jax

from cv_jax.models import checks
from cv_jax.models.batch_norm import BatchNorm
from cv_jax.models.conv_layers import adaptive_avg_pool, he_fan_out, local_response_norm
from cv_jax.models.entry import Entry
from cv_jax.models.layers import at_least_float32
from cv_jax.models.pooling import max_pool

NORMS = ("none", "batch", "lrn")
INITS = ("he", "glorot")


class VGG(nn.Module):
    """Stages of convolutions with 2×2 max pooling after each, then three fully connected layers.

    Attributes:
      num_classes: size of the output; 0 gives the second hidden layer.
      depths: convolutions of each stage.
      widths: channels of each stage.
      norm: "none"; "batch": batch normalisation after every convolution; "lrn": local response
        normalisation after the first convolution, with AlexNet's constants.
      kernel_sizes: side of the filters, odd: one value, or one for each stage; 3 in the paper.
      pointwise: the last filter of each stage with three or more convolutions is 1×1.
      fc_width: units of the two hidden layers.
      dropout_rate: dropped share of the hidden layers' units.
      pool_size: side of the grid to which the last maps are averaged; 7 for 224 pixels.
      kernel_init: "he" or "glorot"; biases start at zero.
      axis_name: mesh axis of the statistics of batch normalisation in the per-device view.
      dtype: dtype of the computation.
      param_dtype: dtype of the parameters.

    Rngs: `dropout` when training with `dropout_rate` > 0. Variables: `batch_stats` with
    `norm="batch"`, mutable in training.
    """

    num_classes: int = 1000
    depths: tuple[int, ...] = (2, 2, 3, 3, 3)
    widths: tuple[int, ...] = (64, 128, 256, 512, 512)
    norm: str = "none"
    kernel_sizes: tuple[int, ...] = (3,)
    pointwise: bool = False
    fc_width: int = 4096
    dropout_rate: float = 0.5
    pool_size: int = 7
    kernel_init: str = "he"
    axis_name: str | None = None
    dtype: str = "float32"
    param_dtype: str = "float32"

    def check(self) -> None:
        """Raise a ValueError if a field is invalid, or two fields exclude each other."""
        if len(self.depths) != len(self.widths):
            raise ValueError(
                f"depths and widths must have equal lengths, got {len(self.depths)} and "
                f"{len(self.widths)}"
            )
        checks.positive("depths", self.depths)
        checks.positive("widths", self.widths)
        checks.positive("fc_width", [self.fc_width])
        if len(self.kernel_sizes) not in (1, len(self.depths)):
            raise ValueError(
                f"kernel_sizes {self.kernel_sizes} needs one value, or one for each of depths "
                f"{self.depths}"
            )
        if any(side < 1 or side % 2 == 0 for side in self.kernel_sizes):
            raise ValueError(f"kernel_sizes must be odd and positive, got {self.kernel_sizes}")
        checks.positive("pool_size", [self.pool_size])
        checks.rate("dropout_rate", self.dropout_rate)
        checks.one_of("norm", self.norm, NORMS)
        checks.one_of("kernel_init", self.kernel_init, INITS)

    @nn.compact
    def __call__(self, image: jax.Array, *, train: bool = False):
        """Return the logits of float images [B, H, W, C], H and W at least 2^stages (32).

        Returns:
          `(logits float32 [B, num_classes], features)`: the maps after each ReLU, named as in the
          literature (`conv1_1` …), and after each pooling, the hidden layers `fc1` and `fc2`, and
          `"pre_logits"`.

        Raises:
          ValueError: see `check`; or the image is too small.
        """
        self.check()
        checks.image_at_least("vgg", image.shape, 2 ** len(self.depths))
        types = dict(dtype=self.dtype, param_dtype=self.param_dtype)
        glorot = nn.initializers.glorot_uniform()
        conv_init = he_fan_out if self.kernel_init == "he" else glorot
        fc_init = nn.initializers.he_normal() if self.kernel_init == "he" else glorot
        features = OrderedDict()

        sides = self.kernel_sizes * (len(self.depths) if len(self.kernel_sizes) == 1 else 1)
        # torchvision numbers every convolution, normalisation, ReLU and pooling.
        index = 0
        x = image.astype(self.dtype)
        for stage, (depth, width) in enumerate(zip(self.depths, self.widths, strict=True), 1):
            for i in range(1, depth + 1):
                size = 1 if self.pointwise and i == depth >= 3 else sides[stage - 1]
                conv = nn.Conv(
                    width,
                    (size, size),
                    padding=size // 2,
                    kernel_init=conv_init,
                    **types,
                    name=f"features_{index}",
                )
                x = conv(x)
                index += 1
                if self.norm == "batch":
                    norm = BatchNorm(axis_name=self.axis_name, **types, name=f"features_{index}")
                    x = norm(x, train=train)
                    index += 1
                x = features[f"conv{stage}_{i}"] = nn.relu(x)
                index += 1
                if self.norm == "lrn" and stage == i == 1:
                    x = features["lrn"] = local_response_norm(x)
                    index += 1
            x = features[f"pool{stage}"] = max_pool(x, 2, stride=2)
            index += 1

        x = adaptive_avg_pool(x, self.pool_size).reshape(len(x), -1)
        for number, index in ((1, 0), (2, 3)):
            dense = nn.Dense(
                self.fc_width, kernel_init=fc_init, **types, name=f"classifier_{index}"
            )
            x = features[f"fc{number}"] = nn.relu(dense(x))
            x = nn.Dropout(self.dropout_rate, deterministic=not train)(x)
        features["pre_logits"] = x
        if self.num_classes:
            x = nn.Dense(self.num_classes, kernel_init=fc_init, **types, name="head")(x)
        return at_least_float32(x), features


_PAPER = (
    "Simonyan and Zisserman, Very deep convolutional networks for large-scale image recognition, "
    "arXiv:1409.1556"
)
_DEPTHS = {
    "vgg11": (1, 1, 2, 2, 2),
    "vgg13": (2, 2, 2, 2, 2),
    "vgg16": (2, 2, 3, 3, 3),
    "vgg19": (2, 2, 4, 4, 4),
}
_entry = functools.partial(
    Entry,
    VGG,
    layer_order=(r"features_(\d+)/.*", r"classifier_(\d+)/.*"),
    first_layers=("features_0",),
)
MODELS = {
    **{
        f"{name}{suffix}": _entry(dict(depths=depths, norm=norm), 2014, _PAPER)
        for name, depths in _DEPTHS.items()
        for suffix, norm in (("", "none"), ("_bn", "batch"))
    },
    "vgg11_lrn": _entry(dict(depths=_DEPTHS["vgg11"], norm="lrn"), 2014, _PAPER),
    "vgg16_c": _entry(dict(depths=_DEPTHS["vgg16"], pointwise=True), 2014, _PAPER),
}
