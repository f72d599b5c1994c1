"""VGG: depth from stacked 3×3 filters.

Simonyan and Zisserman, "Very deep convolutional networks for large-scale image recognition", ICLR
2015, arXiv:1409.1556. Two 3×3 filters in a row see 5×5 pixels and three see 7×7, with fewer weights
and more non-linearities than one large filter. Table 1's nets, by their columns: `vgg11` A,
`vgg11_lrn` A-LRN, `vgg13` B, `vgg16_c` C (1×1 as the last filter of stages 3 to 5), `vgg16` D,
`vgg19` E; `_bn` adds batch normalisation after each convolution, as torchvision does.

The paper trained net A from N(0, σ² = 0.01) and started the deeper ones from A's layers; it adds
that Glorot's initialisation makes that unnecessary, which is "glorot" here. The default is He's
(arXiv:1502.01852, whose subject is nets of this kind): by fan-out in the convolutions, as in
torchvision, and by fan-in in the fully connected layers, where torchvision's N(0, 0.01) suits the
published widths only.

Smaller images than 224 work down to 32: the last maps are averaged (or, as in torchvision,
repeated) to `pool_size`, so that the weights fit any image; `pool_size=1` is the sensible choice
for 32 pixels. Parameters carry torchvision's names; the classifier is
`head`.
"""

from collections import OrderedDict

import flax.linen as nn
import jax

from cv_jax.models import checks
from cv_jax.models.batch_norm import BatchNorm
from cv_jax.models.conv_layers import adaptive_avg_pool, he_fan_out, local_response_norm
from cv_jax.models.entry import Entry
from cv_jax.models.layers import at_least_float32

NORMS = ("none", "batch", "lrn")
INITS = ("he", "glorot")


class VGG(nn.Module):
    """Stages of convolutions, each ended by a 2×2 max pooling, and three fully connected layers.

    Attributes:
      num_classes: size of the output; 0 gives the second hidden layer.
      depths: convolutions of each stage.
      widths: channels of each stage.
      norm: "none"; "batch" normalises after every convolution; "lrn" puts local response
        normalisation after the first one, with AlexNet's constants.
      pointwise: the last filter of each stage of three or more convolutions is 1×1.
      fc_width: units of the two hidden layers.
      dropout_rate: dropped share of the hidden layers' units.
      pool_size: side of the grid to which the last maps are averaged; 7 is what 224 pixels give.
      kernel_init: "he" or "glorot"; biases start at zero.
      axis_name: mesh axis over which batch normalisation shares statistics in the per-device view.
      dtype: dtype of the computation.
      param_dtype: dtype of the parameters.

    Rngs: `dropout` when training with `dropout_rate` > 0. Variables: `batch_stats` with
    `norm="batch"`, mutable in training.
    """

    num_classes: int = 1000
    depths: tuple[int, ...] = (2, 2, 3, 3, 3)
    widths: tuple[int, ...] = (64, 128, 256, 512, 512)
    norm: str = "none"
    pointwise: bool = False
    fc_width: int = 4096
    dropout_rate: float = 0.5
    pool_size: int = 7
    kernel_init: str = "he"
    axis_name: str | None = None
    dtype: str = "float32"
    param_dtype: str = "float32"

    def check(self) -> None:
        """Raises ValueError if a field's value is not allowed, or two of them do not fit."""
        if len(self.depths) != len(self.widths):
            raise ValueError(
                f"depths and widths must name the same stages, got {len(self.depths)} and "
                f"{len(self.widths)}"
            )
        checks.positive("depths", self.depths)
        checks.positive("widths", self.widths)
        checks.positive("fc_width", [self.fc_width])
        checks.positive("pool_size", [self.pool_size])
        checks.rate("dropout_rate", self.dropout_rate)
        checks.one_of("norm", self.norm, NORMS)
        checks.one_of("kernel_init", self.kernel_init, INITS)

    @nn.compact
    def __call__(self, image: jax.Array, *, train: bool = False):
        """Scores of float images [B, H, W, C], H and W at least 32 (2 to the number of stages).

        Returns:
          `(logits float32 [B, num_classes], features)`: the maps after each ReLU, named as in the
          literature (`conv1_1` …), and each pooling, the hidden layers `fc1` and `fc2`, and
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

        # torchvision's names count every convolution, normalisation, ReLU and pooling.
        index = 0
        x = image.astype(self.dtype)
        for stage, (depth, width) in enumerate(zip(self.depths, self.widths, strict=True), 1):
            for i in range(1, depth + 1):
                size = 1 if self.pointwise and i == depth >= 3 else 3
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
            x = features[f"pool{stage}"] = nn.max_pool(x, (2, 2), (2, 2), "VALID")
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
MODELS = {
    **{
        f"{name}{suffix}": Entry(VGG, dict(depths=depths, norm=norm), 2014, _PAPER)
        for name, depths in _DEPTHS.items()
        for suffix, norm in (("", "none"), ("_bn", "batch"))
    },
    "vgg11_lrn": Entry(VGG, dict(depths=_DEPTHS["vgg11"], norm="lrn"), 2014, _PAPER),
    "vgg16_c": Entry(VGG, dict(depths=_DEPTHS["vgg16"], pointwise=True), 2014, _PAPER),
}
