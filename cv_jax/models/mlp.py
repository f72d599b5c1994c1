"""Fully connected network: linear maps with a non-linearity between them.

Hidden layers free the classifier from one template per class (Rumelhart, Hinton and Williams,
1986); every pixel is still connected to every unit, so that nothing learnt at one place of the
image helps at another. Kernels start from He's normal distribution for ReLU and GELU and from
Glorot's for tanh and sigmoid; dropout (Srivastava et al., 2014) stands after each hidden layer.
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
      widths: units of each hidden layer; none at all leaves a linear classifier.
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
        """Scores of float images [B, H, W, C] of any size.

        Returns:
          `(logits float32 [B, num_classes], features)`: each hidden layer `fc1` …, `"pre_logits"`.

        Raises:
          ValueError: a width below 1, an unknown activation, or a rate outside [0, 1).
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
    )
}
