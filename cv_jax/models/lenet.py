"""LeNet-5 in its modern reading.

LeCun, Bottou, Bengio and Haffner, "Gradient-based learning applied to document recognition",
Proc. IEEE 86(11), 1998, section II: filters shared over the image, sub-sampling between them, and
fully connected layers on the 5×5 maps that remain. What textbooks and frameworks call LeNet-5 keeps
the sizes (5×5 filters, 6 and 16 maps, then 120 and 84 units) and simplifies the rest: average
pooling without trainable coefficients, every map of C3 connected to every map of S2, plain tanh, a
softmax output. This file is that net: 61,706 parameters on one-channel 32×32 images.
"""

from collections import OrderedDict

import flax.linen as nn
import jax
import jax.numpy as jnp

from cv_jax.models.entry import Entry
from cv_jax.models.layers import activation


class LeNet5(nn.Module):
    """LeNet-5 with average pooling and a softmax output.

    Attributes:
      num_classes: size of the output; 0 gives the 84 units of F6.
      act: one of `layers.ACTIVATIONS`; the paper's family is "tanh".
      dtype: dtype of the computation.
      param_dtype: dtype of the parameters.
    """

    num_classes: int = 10
    act: str = "tanh"
    dtype: str = "float32"
    param_dtype: str = "float32"

    @nn.compact
    def __call__(self, image: jax.Array, *, train: bool = False):
        """Scores of float images [B, H, W, C], H and W at least 16.

        Returns:
          `(logits float32 [B, num_classes], features)`.

        Raises:
          ValueError: the image is too small for two convolutions and two poolings.
        """
        if min(image.shape[1:3]) < 16:
            raise ValueError(
                f"lenet5 needs images of at least 16x16 (32x32 in the paper), got "
                f"{image.shape[1]}x{image.shape[2]}"
            )
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
        return x.astype(jnp.float32), features


MODELS = {
    "lenet5": Entry(
        LeNet5,
        {},
        1998,
        "LeCun, Bottou, Bengio and Haffner, Gradient-based learning applied to document "
        "recognition, Proc. IEEE 86(11)",
        image_size=(32, 32),
        channels=1,
    )
}
