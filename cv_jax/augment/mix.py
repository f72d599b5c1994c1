"""Operations over the batch, on the device: `(key, images, labels) → (images, labels)`.

Images are float32 [B, H, W, C], normalised. Labels are probabilities, float32 [B, classes]. B is
the global batch: an example's partner depends on its index in the batch, not on its device. The
partner of index i is index B−1−i; batches are shuffled, so a fixed pairing is random.

Each operation draws a `Mix`, one for the batch (`per="batch"`) or one per example
(`per="example"`): the weight of each image in its blend, and the box replaced by its partner's.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cv_jax.augment import boxes
from cv_jax.augment.chance import check_share


class Mix(NamedTuple):
    """Parameters of mixing; n is 1 or the batch size.

    Attributes:
      share: float32 [n], weight of the image in its blend with the partner.
      box: int32 [4, n], (top, left, height, width) of the region copied from the partner, inside
        the image. If it is not empty, `share` is 1.
    """

    share: jax.Array
    box: jax.Array


def apply(mix: Mix, images: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mix images and labels with those of their partners. Label weights are exact pixel counts
    times `share`."""
    height, width = images.shape[1:3]
    # Same bits on any device layout: products are rounded before sums, and share and images are
    # computed once, not once for the image and again for the partner.
    share, images = jax.lax.optimization_barrier((mix.share, images))
    images = _rounded(images)
    # A table: the compiler approximates the division by a constant.
    rest = 1 - np.arange(height * width + 1) / (height * width)
    rest = jnp.asarray(rest, jnp.float32)[mix.box[2] * mix.box[3]]
    kept = jax.lax.optimization_barrier(share * rest)

    def blend(x, share):
        share, partner = share.reshape(-1, *(1,) * (x.ndim - 1)), x[::-1]
        return jnp.where(share == 1, x, partner + _rounded(share * (x - partner)))

    pasted = jax.vmap(lambda box: boxes.mask(height, width, *box), in_axes=1)(mix.box)
    return jnp.where(pasted, images[::-1], blend(images, share)), blend(labels, kept)


def _rounded(x: jax.Array) -> jax.Array:
    """Return `x`, so that a product in it is rounded before it enters a sum.

    Compilers fuse a product and a sum, with one rounding, only if nothing is between them; which
    ones they fuse depends on the device layout. The maximum changes no finite value.
    """
    return jnp.maximum(x, jnp.finfo(x.dtype).min)


def draw_mixup(key: jax.Array, count: int, alpha: float) -> Mix:
    """Draw `count` mixup parameters. The share is max(λ, 1−λ): Beta(alpha, alpha) is symmetric, and
    so is the pairing."""
    share = _quantile(jax.random.uniform(key, (count,)), _beta_quantiles(alpha, 0.5))
    return Mix(share, jnp.zeros((4, count), jnp.int32))


def draw_cutmix(key: jax.Array, count: int, alpha: float, height: int, width: int) -> Mix:
    """Draw `count` CutMix parameters."""
    lambda_key, y_key, x_key = jax.random.split(key, 3)
    side = jnp.sqrt(1 - _quantile(jax.random.uniform(lambda_key, (count,)), _beta_quantiles(alpha)))

    def span(key, size):
        length, centre = (side * size).astype(jnp.int32), jax.random.randint(key, (count,), 0, size)
        start = jnp.maximum(centre - length // 2, 0)
        return start, jnp.minimum(centre + (length + 1) // 2, size) - start

    (top, h), (left, w) = span(y_key, height), span(x_key, width)
    return Mix(jnp.ones(count), jnp.stack([top, left, h, w]))


def _choose(which: jax.Array, first: Mix, second: Mix) -> Mix:
    return jax.tree.map(lambda a, b: jnp.where(which, a, b), first, second)


def _operation(draw, per: str, probability: float):
    """Return the operation that applies the `Mix` of `draw(key, count, height, width)`."""
    if per not in ("batch", "example"):
        raise ValueError(f"unknown per {per!r}; allowed: batch, example")
    check_share(probability=probability)

    def operation(key, images, labels):
        if probability == 0:
            return images, labels
        count = len(images) if per == "example" else 1
        if probability == 1:
            return apply(draw(key, count, *images.shape[1:3]), images, labels)
        coin_key, key = jax.random.split(key)
        mixed = jax.random.bernoulli(coin_key, probability, (count,))
        nothing = Mix(jnp.ones(count), jnp.zeros((4, count), jnp.int32))
        plan = _choose(mixed, draw(key, count, *images.shape[1:3]), nothing)
        return apply(plan, images, labels)

    return operation


def _check_alpha(**alphas: float) -> None:
    for name, alpha in alphas.items():
        if alpha <= 0:
            raise ValueError(f"{name} must be positive, got {alpha}")


def mixup(alpha: float = 0.2, per: str = "batch", probability: float = 1.0):
    """Convex combinations of two examples and their labels (Zhang et al., 2018, arXiv:1710.09412).

    Args:
      alpha: λ is drawn from Beta(alpha, alpha).
      per: "batch" draws one λ for the batch, "example" one per example.
      probability: of mixing; drawn per batch or per example, as λ.
    """
    _check_alpha(alpha=alpha)
    return _operation(lambda key, n, height, width: draw_mixup(key, n, alpha), per, probability)


def cutmix(alpha: float = 1.0, per: str = "batch", probability: float = 1.0):
    """Paste a box of one image into another (Yun et al., 2019, arXiv:1905.04899).

    The box has the aspect of the image and 1−λ of its area. The centre is uniform over the pixels;
    the box is clipped at the border. Labels are mixed by the clipped area.

    Args:
      alpha: λ is drawn from Beta(alpha, alpha).
      per: "batch" draws one box for the batch, "example" one per example.
      probability: of mixing; drawn per batch or per example, as the box.
    """
    _check_alpha(alpha=alpha)
    return _operation(
        lambda key, n, height, width: draw_cutmix(key, n, alpha, height, width), per, probability
    )


def mixup_or_cutmix(
    mixup_alpha: float = 0.8,
    cutmix_alpha: float = 1.0,
    switch_probability: float = 0.5,
    per: str = "batch",
    probability: float = 1.0,
):
    """Apply either mixup or CutMix, as in the recipes of DeiT and Swin.

    Args:
      mixup_alpha: see `mixup`.
      cutmix_alpha: see `cutmix`.
      switch_probability: of CutMix instead of mixup.
      per: "batch" draws once for the batch, "example" once per example.
      probability: of mixing.
    """
    _check_alpha(mixup_alpha=mixup_alpha, cutmix_alpha=cutmix_alpha)
    check_share(switch_probability=switch_probability)

    def draw(key, count, height, width):
        switch_key, mixup_key, cutmix_key = jax.random.split(key, 3)
        return _choose(
            jax.random.bernoulli(switch_key, switch_probability, (count,)),
            draw_cutmix(cutmix_key, count, cutmix_alpha, height, width),
            draw_mixup(mixup_key, count, mixup_alpha),
        )

    return _operation(draw, per, probability)


def _beta_quantiles(alpha: float, lowest: float = 0.0) -> np.ndarray:
    """Quantiles of Beta(alpha, alpha) at 4,097 probabilities from `lowest` to 1.

    Interpolation between them replaces `jax.random.beta`, whose rejection loops take longer to
    compile than the rest of a small network's training step.
    """
    import scipy.special  # takes a tenth of a second

    grid = np.linspace(lowest, 1, 4097)
    return scipy.special.betaincinv(alpha, alpha, grid).astype(np.float32)


def _quantile(uniform: jax.Array, quantiles: np.ndarray) -> jax.Array:
    place = uniform * (len(quantiles) - 1)
    return jnp.interp(place, jnp.arange(len(quantiles)), quantiles)


OPERATIONS = {"mixup": mixup, "cutmix": cutmix, "mixup_or_cutmix": mixup_or_cutmix}
