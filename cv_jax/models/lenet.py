"""LeNet-5 as published in 1998, and the later network of the same name.

LeCun, Bottou, Bengio and Haffner, "Gradient-based learning applied to document recognition",
Proc. IEEE 86(11), 1998, section II: convolutions with sub-sampling between them, then fully
connected layers on 5×5 maps.

`lenet5_1998` is the paper's network with 60,000 trainable parameters for one-channel 32×32 images.
Each map of C3 reads selected maps of S2 (Table I); sub-sampling has a trainable coefficient and
bias; every layer up to F6 ends in 1.7159·tanh(2x/3); each output is the squared distance of the 84
units of F6 from a code of the class, a 7×12 bitmap. Images are scaled to white −0.1, black 1.175.
Choices of this file, not checked against the paper's text: weights are drawn from U(±2.4/fan-in),
biases start at zero, and the bitmaps are redrawn.

`lenet5` is the LeNet-5 of textbooks and frameworks with 61,706 parameters: the same sizes, average
pooling, all maps connected, tanh and a softmax output.

C5 is a 5×5 convolution in the paper. On the 5×5 maps of a 32×32 image it equals the dense layer of
both networks here.
"""

import random
from collections import OrderedDict

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cv_jax.models import checks
from cv_jax.models.entry import Entry
from cv_jax.models.layers import activation, at_least_float32

SMALLEST = 16  # side for which the maps after the second pooling are 1×1

# Table I: the maps of S2 that each of the 16 maps of C3 reads. Six maps read three neighbours and
# six read four (both cyclic), three read two pairs, the last reads all.
C3_INPUTS = (
    *(tuple(sorted((i + j) % 6 for j in range(3))) for i in range(6)),
    *(tuple(sorted((i + j) % 6 for j in range(4))) for i in range(6)),
    (0, 1, 3, 4),
    (1, 2, 4, 5),
    (0, 2, 3, 5),
    (0, 1, 2, 3, 4, 5),
)

_BITMAPS = """
....... ....... ....... ....... ....... ....... ....... ....... ....... .......
..###.. ...##.. .#####. ######. ....##. ####### ..####. ####### .#####. .#####.
.##.##. ..###.. ##...## ....##. ...###. ##..... .##.... .....## ##...## ##...##
##...## .####.. .....## ...##.. ..####. ##..... ##..... ....##. ##...## ##...##
##...## ...##.. ....##. ..##... .##.##. ##..... ##..... ....##. ##...## ##...##
##...## ...##.. ....##. .#####. ##..##. ######. ######. ...##.. .#####. .######
##...## ...##.. ...##.. ....### ##..##. .....## ##...## ...##.. .#####. .....##
##...## ...##.. ..##... .....## ####### .....## ##...## ..##... ##...## .....##
##...## ...##.. .##.... .....## ....##. .....## ##...## ..##... ##...## .....##
.##.##. ...##.. ##..... ##..##. ....##. ##...## ##...## .##.... ##...## ....##.
..###.. .###### ####### .####.. ....##. .#####. .#####. .##.... .#####. .####..
....... ....... ....... ....... ....... ....... ....... ....... ....... .......
"""


def rbf_codes(num_classes: int) -> np.ndarray:
    """Return the target of F6 for each class, ±1 [num_classes, 84], float32.

    The first ten are the bitmaps of the digits, row by row, black +1. Codes of further classes are
    drawn with equal probabilities, the alternative in the paper.
    """
    rows = [row.split() for row in _BITMAPS.split("\n") if row]
    codes = ["".join(digit) for digit in zip(*rows, strict=True)]
    for label in range(10, num_classes):
        coin = random.Random(label)
        codes.append("".join("#" if coin.random() < 0.5 else "." for _ in range(84)))
    signs = [[1.0 if pixel == "#" else -1.0 for pixel in code] for code in codes[:num_classes]]
    return np.array(signs, np.float32)


def rbf_loss(penalties: jax.Array, labels: jax.Array, j: float) -> jax.Array:
    """Return a discriminative loss of penalties for each example [B], similar to the paper's.

    The loss lowers the penalty of the true class and raises the penalties of other classes, small
    ones most; penalties far above `j` have no effect. For j → ∞ it is the softmax cross-entropy of
    the negated penalties, which are the logits of `LeNet5Original`.

    Args:
      penalties: float [B, classes], −logits.
      labels: class probabilities [B, classes]; one-hot in the paper.
      j: positive; penalty from which the loss hardly raises the penalty of a wrong class.
    """
    limit = jnp.full((len(penalties), 1), -j, penalties.dtype)
    competition = jax.nn.logsumexp(jnp.concatenate([limit, -penalties], axis=1), axis=1)
    return (penalties * labels).sum(axis=1) + competition


def squash(x: jax.Array) -> jax.Array:
    """Return 1.7159·tanh(2x/3), which is close to ±1 at ±1."""
    return 1.7159 * jnp.tanh(x * (2 / 3))


def _uniform(fan_in: int | None = None):
    """Return an initialiser U(±2.4/fan-in); default: the fan-in of a kernel [..., in, out]."""

    def init(key, shape, dtype):
        bound = 2.4 / (fan_in or np.prod(shape[:-1]))
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


class SubSample(nn.Module):
    """Sub-sampling: the sum of each 2×2 square times a coefficient plus a bias, one per map."""

    dtype: str = "float32"
    param_dtype: str = "float32"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, H, W, C] → [B, ⌊H/2⌋, ⌊W/2⌋, C]."""
        shape = x.shape[-1:]
        coefficient = self.param("coefficient", _uniform(fan_in=4), shape, self.param_dtype)
        bias = self.param("bias", nn.initializers.zeros, shape, self.param_dtype)
        total = 4 * nn.avg_pool(x, (2, 2), (2, 2))
        return total * coefficient.astype(self.dtype) + bias.astype(self.dtype)


class TableConv(nn.Module):
    """A 5×5 convolution in which each output map reads only the input maps of a table.

    Attributes:
      inputs: input maps of each output map.
      dtype: dtype of the computation.
      param_dtype: dtype of the parameters.

    The kernel [5, 5, connections] has one filter per connection, in the order of the output maps.
    It is scattered into a full kernel [5, 5, in, out] that is zero elsewhere.
    """

    inputs: tuple[tuple[int, ...], ...]
    dtype: str = "float32"
    param_dtype: str = "float32"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, H, W, C] → [B, H − 4, W − 4, len(inputs)]."""
        pairs = [(i, o) for o, maps in enumerate(self.inputs) for i in maps]
        sources, targets = np.array(pairs).T

        def init(key, shape, dtype):
            fan_in = np.array([25 * len(self.inputs[o]) for o in targets])
            return _uniform(fan_in=1)(key, shape, dtype) / jnp.asarray(fan_in, dtype)

        filters = self.param("kernel", init, (5, 5, len(pairs)), self.param_dtype)
        bias = self.param("bias", nn.initializers.zeros, (len(self.inputs),), self.param_dtype)
        kernel = jnp.zeros((5, 5, x.shape[-1], len(self.inputs)), self.dtype)
        kernel = kernel.at[:, :, sources, targets].set(filters.astype(self.dtype))
        layout = ("NHWC", "HWIO", "NHWC")
        y = jax.lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=layout)
        return y + bias.astype(self.dtype)


class LeNet5Original(nn.Module):
    """LeNet-5 as published in 1998.

    Attributes:
      num_classes: size of the output; 0 gives the 84 units of F6.
      dtype: dtype of the computation.
      param_dtype: dtype of the parameters.
    """

    num_classes: int = 10
    dtype: str = "float32"
    param_dtype: str = "float32"

    @nn.compact
    def __call__(self, image: jax.Array, *, train: bool = False):
        """Return the logits of float images [B, H, W, C], H and W at least 16.

        Returns:
          `(logits float32 [B, num_classes], features)`: a logit is the negated penalty (eq. 7),
          −‖F6 − code‖² ≤ 0, so the largest logit is the prediction; `rbf_loss` takes penalties.

        Raises:
          ValueError: the image is too small.
        """
        checks.image_at_least("lenet5_1998", image.shape, SMALLEST)
        types = dict(dtype=self.dtype, param_dtype=self.param_dtype)
        weights = dict(kernel_init=_uniform(), **types)
        features = OrderedDict()
        x = image.astype(self.dtype)
        x = features["c1"] = squash(nn.Conv(6, (5, 5), padding="VALID", **weights, name="c1")(x))
        x = features["s2"] = squash(SubSample(**types, name="s2")(x))
        x = features["c3"] = squash(TableConv(C3_INPUTS, **types, name="c3")(x))
        x = features["s4"] = squash(SubSample(**types, name="s4")(x))
        x = x.reshape(len(x), -1)
        x = features["c5"] = squash(nn.Dense(120, **weights, name="c5")(x))
        x = features["f6"] = squash(nn.Dense(84, **weights, name="f6")(x))
        features["pre_logits"] = x
        x = at_least_float32(x)
        if self.num_classes:
            x = -jnp.square(x[:, None] - rbf_codes(self.num_classes)).sum(axis=-1)
        return x, features


class LeNet5(nn.Module):
    """LeNet-5 with average pooling and a softmax output.

    Attributes:
      num_classes: size of the output; 0 gives the 84 units of F6.
      act: one of `layers.ACTIVATIONS`; "tanh" as in the paper.
      dtype: dtype of the computation.
      param_dtype: dtype of the parameters.
    """

    num_classes: int = 10
    act: str = "tanh"
    dtype: str = "float32"
    param_dtype: str = "float32"

    @nn.compact
    def __call__(self, image: jax.Array, *, train: bool = False):
        """Return the logits of float images [B, H, W, C], H and W at least 16.

        Returns:
          `(logits float32 [B, num_classes], features)`.

        Raises:
          ValueError: the image is too small, or the activation is unknown.
        """
        checks.image_at_least("lenet5", image.shape, SMALLEST)
        act = activation(self.act)
        types = dict(dtype=self.dtype, param_dtype=self.param_dtype)
        conv = dict(kernel_size=(5, 5), padding="VALID", **types)
        features = OrderedDict()
        x = image.astype(self.dtype)
        x = features["c1"] = act(nn.Conv(6, **conv, name="c1")(x))
        x = features["s2"] = nn.avg_pool(x, (2, 2), (2, 2))
        x = features["c3"] = act(nn.Conv(16, **conv, name="c3")(x))
        x = features["s4"] = nn.avg_pool(x, (2, 2), (2, 2))
        x = x.reshape(len(x), -1)
        x = features["c5"] = act(nn.Dense(120, **types, name="c5")(x))
        x = features["f6"] = act(nn.Dense(84, **types, name="f6")(x))
        features["pre_logits"] = x
        if self.num_classes:
            x = nn.Dense(self.num_classes, **types, name="head")(x)
        return at_least_float32(x), features


_PAPER = (
    "LeCun, Bottou, Bengio and Haffner, Gradient-based learning applied to document recognition, "
    "Proc. IEEE 86(11)"
)
MODELS = {
    name: Entry(
        module,
        {},
        1998,
        _PAPER,
        image_size=(32, 32),
        channels=1,
        layer_order=(r"[csf](\d)/.*",),
        first_layers=("c1",),
    )
    for name, module in (("lenet5_1998", LeNet5Original), ("lenet5", LeNet5))
}
