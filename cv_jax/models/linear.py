"""Linear classifier: one matrix product of the flattened pixels.

Each column of `head/kernel` is a template of a class, as large as the image; the logit is the inner
product of template and image. Rosenblatt (1958) trained such units. With softmax cross-entropy the
model is multinomial logistic regression.
"""

from collections import OrderedDict

import flax.linen as nn
import jax

from cv_jax.models.entry import Entry
from cv_jax.models.layers import at_least_float32


class Linear(nn.Module):
    """`logits = W·pixels + b`.

    Attributes:
      num_classes: size of the output; 0 gives the flattened pixels.
      dtype: dtype of the computation.
      param_dtype: dtype of the parameters.
    """

    num_classes: int = 10
    dtype: str = "float32"
    param_dtype: str = "float32"

    @nn.compact
    def __call__(self, image: jax.Array, *, train: bool = False):
        """Float images [B, H, W, C] → `(logits float32 [B, num_classes], features)`."""
        features = OrderedDict(pre_logits=image.reshape(len(image), -1).astype(self.dtype))
        logits = features["pre_logits"]
        if self.num_classes:
            # Zeros are a valid start, because the loss is convex.
            head = nn.Dense(
                self.num_classes,
                kernel_init=nn.initializers.zeros,
                dtype=self.dtype,
                param_dtype=self.param_dtype,
                name="head",
            )
            logits = head(logits)
        return at_least_float32(logits), features


MODELS = {
    "linear": Entry(
        Linear,
        {},
        1958,
        "Rosenblatt, The perceptron, Psychological Review 65(6)",
        image_size=(32, 32),
        channels=3,
        layer_order=(),
    )
}
