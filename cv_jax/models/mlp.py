"""Fully connected network: dense layers with activations between them.

Rumelhart, Hinton and Williams, 1986. Hidden layers allow more than one template per class, but no
weights are shared between positions of the image. Kernels are initialised by Glorot's normal
distribution for tanh and sigmoid, and by He's for all other activations. Dropout (Srivastava et
al., 2014) follows each hidden layer.
"""

from collections import OrderedDict

import flax.linen as nn
import jax

from cv_jax.models import checks
from cv_jax.models.entry import Entry
from cv_jax.models.layers import activation, at_least_float32


class MLP(nn.Module):
    """Fully connected network on the flattened pixels.

    Attributes:
      num_classes: size of the output; 0 gives the last hidden layer.
      widths: units of each hidden layer; an empty tuple gives a linear classifier.
      act: one of `layers.ACTIVATIONS`.
      dropout_rate: dropped share of each hidden layer's units.
      dtype: dtype of the computation.
      param_dtype: dtype of the parameters.

    Rngs: `dropout` when training with `dropout_rate` > 0.
    """

    num_classes: int = 10
    widths: tuple[int, ...] = (512, 512)
    act: str = "relu"
    dropout_rate: float = 0.0
    dtype: str = "float32"
    param_dtype: str = "float32"

    @nn.compact
    def __call__(self, image: jax.Array, *, train: bool = False):
        """Return the logits of float images [B, H, W, C] of any size.

        Returns:
          `(logits float32 [B, num_classes], features)`: each hidden layer `fc1` …, `"pre_logits"`.

        Raises:
          ValueError: a width is less than 1, the activation is unknown, or a rate is outside
            [0, 1).
        """
        checks.positive("widths", self.widths)
        checks.rate("dropout_rate", self.dropout_rate)
        act = activation(self.act)
        kernel_init = (
            nn.initializers.glorot_normal()
            if self.act in ("tanh", "sigmoid")
            else nn.initializers.he_normal()
        )
        types = dict(dtype=self.dtype, param_dtype=self.param_dtype)
        features = OrderedDict()
        x = image.reshape(len(image), -1).astype(self.dtype)
        for i, width in enumerate(self.widths):
            x = act(nn.Dense(width, kernel_init=kernel_init, **types, name=f"fc{i + 1}")(x))
            features[f"fc{i + 1}"] = x
            x = nn.Dropout(self.dropout_rate, deterministic=not train)(x)
        features["pre_logits"] = x
        if self.num_classes:
            x = nn.Dense(self.num_classes, **types, name="head")(x)
        return at_least_float32(x), features


MODELS = {
    "mlp": Entry(
        MLP,
        {},
        1986,
        "Rumelhart, Hinton and Williams, Learning representations by back-propagating errors, "
        "Nature 323",
        image_size=(32, 32),
        channels=3,
        layer_order=(r"fc(\d+)/.*",),
        first_layers=("fc1",),
    )
}
