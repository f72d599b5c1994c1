"""The convolutional net of airbench, which is made for short trainings on CIFAR-10.

Jordan, "94% on CIFAR-10 in 3.29 seconds on a single GPU", 2024, arXiv:2404.00498; the form here is
that of `airbench94_muon.py` in github.com/KellerJordan/cifar10-airbench. Its first layer whitens
patches of 2×2 pixels and is computed from training images; see `whiten`. Groups of two 3×3
convolutions follow. The first filters of each convolution copy their input (Dirac). Batch
normalisation has a shift and no scale, and averages its statistics over few batches. The logits are
divided by the number of features.

`airbench94` has the published widths. Parameters have the reference's names.
"""

from collections import OrderedDict

import flax.linen as nn
import jax
import jax.numpy as jnp

from cv_jax.models import checks
from cv_jax.models.batch_norm import BatchNorm
from cv_jax.models.conv_layers import uniform_fan_in
from cv_jax.models.entry import DataInit, Entry
from cv_jax.models.layers import ACTIVATIONS, at_least_float32
from cv_jax.models.pooling import max_pool

WHITEN_SIZE = 2  # side of the whitened patches
WHITEN_EPSILON = 5e-4  # added to the eigenvalues
WHITEN_EXAMPLES = 5000
POOL_SIZE = 3  # side of the last pooling

gelu = ACTIVATIONS["gelu"]


def whitening_kernel(images: jax.Array) -> jax.Array:
    """Return the filters of the whitening layer: eigenvectors of patches, and their negatives.

    The filters are the eigenvectors of the mean of p·pᵀ over all patches p, without subtraction of
    their mean, each divided by √(eigenvalue + `WHITEN_EPSILON`), in the order of the eigenvalues.
    Their responses have a second moment of about 1 and are not correlated. Section 3.2 of the
    paper; first by Page, "How to train your ResNet 8", 2019.

    Args:
      images: normalised, float32 [N, H, W, C].

    Returns:
      float32 [2, 2, C, 2·n], with n = 4·C.
    """
    k, channels = WHITEN_SIZE, images.shape[-1]
    height, width = (side - k + 1 for side in images.shape[1:3])
    taps = [images[:, a : a + height, b : b + width] for a in range(k) for b in range(k)]
    patches = jnp.concatenate(taps, axis=-1).reshape(-1, k * k * channels)
    # Without rounding to bfloat16 or TF32 on accelerators.
    moments = jnp.dot(patches.T, patches, precision="highest") / len(patches)
    values, vectors = jnp.linalg.eigh(moments)
    filters = (vectors / jnp.sqrt(values + WHITEN_EPSILON)).reshape(k, k, channels, -1)
    return jnp.concatenate([filters, -filters], axis=-1)


def whiten(variables: dict, images: jax.Array) -> dict:
    """Return the variables with the whitening kernel of images; see `DataInit`."""
    params = variables["params"]
    old = params["whiten"]["kernel"]
    layer = {**params["whiten"], "kernel": whitening_kernel(images).astype(old.dtype)}
    return {**variables, "params": {**params, "whiten": layer}}


def dirac_first(key: jax.Array, shape: tuple[int, ...], dtype) -> jax.Array:
    """Draw from U(±1/√fan-in), and let the first filters copy one input channel each.

    For kernels [k, k, in, out] of odd side k: the first min(in, out) filters are the identity.
    """
    size, _, inputs, outputs = shape
    copies = min(inputs, outputs)
    kernel = uniform_fan_in(key, shape, dtype).at[..., :copies].set(0)
    channel = jnp.arange(copies)
    return kernel.at[size // 2, size // 2, channel, channel].set(1)


def unit_deviation(key: jax.Array, shape: tuple[int, ...], dtype) -> jax.Array:
    """Draw from a uniform distribution, and divide by the standard deviation of the draw."""
    draw = jax.random.uniform(key, shape, jnp.float32, -1, 1)
    return (draw / draw.std(ddof=1)).astype(dtype)


class ConvGroup(nn.Module):
    """Convolution, 2×2 max pooling, normalisation, GELU; then the same without pooling.

    Attributes:
      width: output channels.
      norm_momentum, axis_name, dtype, param_dtype: as in `Airbench`.
    """

    width: int
    norm_momentum: float
    axis_name: str | None
    dtype: str
    param_dtype: str

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """[B, H, W, C] → [B, H // 2, W // 2, width]."""
        types = dict(dtype=self.dtype, param_dtype=self.param_dtype)
        for i in (1, 2):
            conv = nn.Conv(
                self.width,
                (3, 3),
                padding=1,
                use_bias=False,
                kernel_init=dirac_first,
                **types,
                name=f"conv{i}",
            )
            x = conv(x)
            if i == 1:
                x = max_pool(x, 2, stride=2)
            norm = BatchNorm(
                momentum=self.norm_momentum,
                epsilon=1e-12,
                use_scale=False,
                axis_name=self.axis_name,
                **types,
                name=f"norm{i}",
            )
            x = gelu(norm(x, train=train))
        return x


class Airbench(nn.Module):
    """Whitening layer, groups of convolutions, max pooling and a linear classifier.

    Attributes:
      num_classes: size of the output; 0 gives the features before the classifier.
      widths: channels of each group.
      norm_momentum: weight of the old running statistics in batch normalisation.
      axis_name: mesh axis of these statistics in the per-device view.
      dtype: dtype of the computation.
      param_dtype: dtype of the parameters.

    Variables: `batch_stats`, mutable in training. Drawn variables have a random whitening kernel;
    `whiten` computes it from images.
    """

    num_classes: int = 10
    widths: tuple[int, ...] = (64, 256, 256)
    norm_momentum: float = 0.6
    axis_name: str | None = None
    dtype: str = "float32"
    param_dtype: str = "float32"

    @nn.compact
    def __call__(self, image: jax.Array, *, train: bool = False):
        """Return the logits of float images [B, H, W, C], with sides of at least 3·2^groups + 1.

        Returns:
          `(logits float32 [B, num_classes], features)`: the maps after each GELU and after the last
          pooling, and `"pre_logits"`.

        Raises:
          ValueError: a field is invalid, or the image is too small.
        """
        checks.positive("widths", self.widths)
        checks.rate("norm_momentum", self.norm_momentum)
        smallest = POOL_SIZE * 2 ** len(self.widths) + WHITEN_SIZE - 1
        checks.image_at_least("airbench", image.shape, smallest)
        types = dict(dtype=self.dtype, param_dtype=self.param_dtype)
        features = OrderedDict()

        inputs = WHITEN_SIZE**2 * image.shape[-1]  # values of a patch
        bound = inputs**-0.5
        conv = nn.Conv(
            2 * inputs,
            (WHITEN_SIZE, WHITEN_SIZE),
            padding="VALID",
            kernel_init=uniform_fan_in,
            bias_init=lambda *given: jax.random.uniform(*given, -bound, bound),
            **types,
            name="whiten",
        )
        x = features["whiten"] = gelu(conv(image.astype(self.dtype)))
        for i, width in enumerate(self.widths, 1):
            group = ConvGroup(
                width, self.norm_momentum, self.axis_name, **types, name=f"layers_{i}"
            )
            x = features[f"layers_{i}"] = group(x, train=train)
        x = features["pool"] = max_pool(x, POOL_SIZE, stride=POOL_SIZE)
        x = features["pre_logits"] = x.reshape(len(x), -1)
        if not self.num_classes:
            return at_least_float32(x), features
        head = nn.Dense(
            self.num_classes, use_bias=False, kernel_init=unit_deviation, **types, name="head"
        )
        return at_least_float32(head(x)) / x.shape[-1], features


MODELS = {
    "airbench94": Entry(
        Airbench,
        {},
        2024,
        "Jordan, 94% on CIFAR-10 in 3.29 seconds on a single GPU, arXiv:2404.00498",
        image_size=(32, 32),
        layer_order=("whiten/.*", r"layers_(\d+)/\w+(\d)/.*"),
        first_layers=("whiten",),
        data_init=DataInit(WHITEN_EXAMPLES, whiten),
    )
}
