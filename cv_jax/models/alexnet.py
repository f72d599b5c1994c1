"""AlexNet: the network of 2012, and the later one-stream network of the same name.

Krizhevsky, Sutskever and Hinton, "ImageNet classification with deep convolutional neural networks",
NIPS 2012. Five convolutions and three fully connected layers with ReLU and dropout. `alexnet` is
the paper's network: its two GPU towers are convolutions in two groups (conv 2, 4 and 5 read only
the maps of their own tower), with local response normalisation, overlapping pooling windows (3×3,
stride 2) and the paper's initialisation.

The paper states 224×224 inputs, but its 55×55 maps after conv 1 need 227. Here conv 1 has a padding
of 2 on every side, which gives 55×55 maps for 224 pixels (no filter reads the last padded row and
column). Response normalisation runs over all channels of a layer, as in the paper's formula.

`alexnet_one_stream` is torchvision's `alexnet`: 64-192-384-256-256 channels after Krizhevsky, "One
weird trick for parallelizing convolutional neural networks", 2014, arXiv:1404.5997, without groups
and response normalisation. Difference: dropout follows the two hidden layers, as in both papers;
torchvision has it before them. Evaluation is the same.

Parameters have torchvision's names; the classifier is `head`.
"""

import functools
from collections import OrderedDict

import flax.linen as nn
import jax

from cv_jax.models import checks
from cv_jax.models.conv_layers import adaptive_avg_pool, local_response_norm, uniform_fan_in
from cv_jax.models.entry import Entry
from cv_jax.models.layers import activation, at_least_float32
from cv_jax.models.pooling import max_pool

INITS = ("normal", "uniform", "he")
SMALLEST = 63  # side for which the input of the third pooling is 3×3


class AlexNet(nn.Module):
    """Five convolutions, three poolings, three fully connected layers.

    Attributes:
      num_classes: size of the output; 0 gives the second hidden layer.
      channels: output channels of the five convolutions.
      groups: groups of each convolution; must divide its input and output channels.
      act: activation of all layers, one of `layers.ACTIVATIONS`.
      lrn: local response normalisation after conv 1 and conv 2.
      overlap: pooling windows of 3×3 with stride 2; else of 2×2.
      fc_width: units of the two hidden layers.
      dropout_rate: dropped share of the hidden layers' units.
      pool_size: side of the grid to which the last maps are averaged; 6 for 224 pixels.
      kernel_init: "normal" is the paper's, N(0, 0.01) with biases of 1 in conv 2, 4, 5 and the
        hidden layers, for the published widths; "uniform" is U(±1/√fan-in) and "he" is
        N(0, √(2/fan-in)), both with zero biases and for any width.
      dtype: dtype of the computation.
      param_dtype: dtype of the parameters.

    Rngs: `dropout` when training with `dropout_rate` > 0.
    """

    num_classes: int = 1000
    channels: tuple[int, ...] = (96, 256, 384, 384, 256)
    groups: tuple[int, ...] = (1, 2, 1, 2, 2)
    act: str = "relu"
    lrn: bool = True
    overlap: bool = True
    fc_width: int = 4096
    dropout_rate: float = 0.5
    pool_size: int = 6
    kernel_init: str = "normal"
    dtype: str = "float32"
    param_dtype: str = "float32"

    def check(self) -> None:
        """Raise a ValueError if a field is invalid, or two fields exclude each other."""
        for field in ("channels", "groups"):
            if len(getattr(self, field)) != 5:
                raise ValueError(f"{field} must be 5 numbers, got {len(getattr(self, field))}")
            checks.positive(field, getattr(self, field))
        for i, groups in enumerate(self.groups):
            if self.channels[i] % groups or (i and self.channels[i - 1] % groups):
                raise ValueError(
                    f"groups {groups} of conv {i + 1} does not divide its channels "
                    f"({'image' if i == 0 else self.channels[i - 1]} in, {self.channels[i]} out)"
                )
        checks.positive("fc_width", [self.fc_width])
        checks.positive("pool_size", [self.pool_size])
        checks.rate("dropout_rate", self.dropout_rate)
        checks.one_of("kernel_init", self.kernel_init, INITS)

    @nn.compact
    def __call__(self, image: jax.Array, *, train: bool = False):
        """Return the logits of float images [B, H, W, C], H and W at least 63.

        Returns:
          `(logits float32 [B, num_classes], features)`: the maps after each convolution's
          activation (`conv1` …) and each pooling, the hidden layers `fc6` and `fc7`, and
          `"pre_logits"`.

        Raises:
          ValueError: see `check`; or the image is too small.
        """
        self.check()
        checks.image_at_least("alexnet", image.shape, SMALLEST)
        types, act = dict(dtype=self.dtype, param_dtype=self.param_dtype), activation(self.act)
        types["kernel_init"] = {
            "normal": nn.initializers.normal(0.01),
            "uniform": uniform_fan_in,
            "he": nn.initializers.he_normal(),
        }[self.kernel_init]
        normal = self.kernel_init == "normal"
        window_size = 3 if self.overlap else 2
        ones = nn.initializers.ones if normal else nn.initializers.zeros
        features = OrderedDict()

        def conv(x, number, index, size, stride, padding, **options):
            layer = nn.Conv(
                self.channels[number - 1],
                (size, size),
                strides=stride,
                padding=padding,
                feature_group_count=self.groups[number - 1],
                **types,
                **options,
                name=f"features_{index}",
            )
            x = features[f"conv{number}"] = act(layer(x))
            return x

        def pool(x, number):
            x = features[f"pool{number}"] = max_pool(x, window_size, stride=2)
            return x

        x = conv(image.astype(self.dtype), 1, 0, size=11, stride=4, padding=2)
        x = pool(local_response_norm(x) if self.lrn else x, 1)
        x = conv(x, 2, 3, size=5, stride=1, padding=2, bias_init=ones)
        x = pool(local_response_norm(x) if self.lrn else x, 2)
        x = conv(x, 3, 6, size=3, stride=1, padding=1)
        x = conv(x, 4, 8, size=3, stride=1, padding=1, bias_init=ones)
        x = pool(conv(x, 5, 10, size=3, stride=1, padding=1, bias_init=ones), 5)

        x = adaptive_avg_pool(x, self.pool_size).reshape(len(x), -1)
        for number, index in ((6, 1), (7, 4)):
            dense = nn.Dense(self.fc_width, bias_init=ones, **types, name=f"classifier_{index}")
            x = features[f"fc{number}"] = act(dense(x))
            x = nn.Dropout(self.dropout_rate, deterministic=not train)(x)
        features["pre_logits"] = x
        if self.num_classes:
            x = nn.Dense(self.num_classes, **types, name="head")(x)
        return at_least_float32(x), features


_entry = functools.partial(
    Entry,
    AlexNet,
    layer_order=(r"features_(\d+)/.*", r"classifier_(\d+)/.*"),
    first_layers=("features_0",),
    # Each group of a convolution has a matrix of its own.
    fused=lambda model: {
        f"features_{i}": n for i, n in zip((0, 3, 6, 8, 10), model.groups, strict=True)
    },
)
MODELS = {
    "alexnet": _entry(
        {},
        2012,
        "Krizhevsky, Sutskever and Hinton, ImageNet classification with deep convolutional neural "
        "networks, NIPS 2012",
    ),
    "alexnet_one_stream": _entry(
        dict(
            channels=(64, 192, 384, 256, 256),
            groups=(1, 1, 1, 1, 1),
            lrn=False,
            kernel_init="uniform",
        ),
        2014,
        "Krizhevsky, One weird trick for parallelizing convolutional neural networks, "
        "arXiv:1404.5997",
    ),
}
