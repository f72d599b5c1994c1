"""Operations over the batch, on the device: `(key, images, labels) → (images, labels)`.

Images are float32 [B, H, W, C], normalised; labels come and go as probabilities float32
[B, classes]. B is the global batch: partners are chosen by position in it, whatever device holds
them. The partner of position i is position B−1−i: batches are shuffled, so any fixed pairing is a
random one.

Each operation draws, for all examples (`per="batch"`) or for each one (`per="example"`), a `Mix`:
what share of itself an image keeps, and which box of it is its partner's.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special

from cv_jax.augment import boxes
from cv_jax.augment.chance import check_probability


class Mix(NamedTuple):
    """How images are mixed with their partners; n is 1 or the size of the batch.

    Attributes:
      share: float32 [n], how much an image keeps of itself in every pixel.
      box: int32 [4, n], (top, left, height, width), inside the image, of what is replaced by the
        partner's; empty or the share is 1.
    """

    share: jax.Array
    box: jax.Array


def apply(mix: Mix, images: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Images and labels mixed with those of the partners. Labels are mixed by the pixels that are
    each one's, counted exactly."""
    height, width = images.shape[1:3]
    # On any layout of devices the same bits: the share is rounded before it is used, and the
    # blend has one product, so that compilers cannot choose which of two to fuse with the sum.
    share = jax.lax.optimization_barrier(mix.share)
    # A table, for compilers divide by a number that they know only approximately.
    rest = 1 - np.arange(height * width + 1) / (height * width)
    rest = jnp.asarray(rest, jnp.float32)[mix.box[2] * mix.box[3]]
    kept = jax.lax.optimization_barrier(share * rest)

    def blend(x, share):
        share, partner = share.reshape(-1, *(1,) * (x.ndim - 1)), x[::-1]
        return jnp.where(share == 1, x, partner + share * (x - partner))

    pasted = jax.vmap(lambda box: boxes.mask(height, width, *box), in_axes=1)(mix.box)
    return jnp.where(pasted, images[::-1], blend(images, share)), blend(labels, kept)


def draw_mixup(key: jax.Array, count: int, alpha: float) -> Mix:
    """`count` draws of mixup. λ and 1−λ are equally likely, and the larger one stays at home."""
    share = _quantile(jax.random.uniform(key, (count,)), _beta_quantiles(alpha, 0.5))
    return Mix(share, jnp.zeros((4, count), jnp.int32))


def draw_cutmix(key: jax.Array, count: int, alpha: float, height: int, width: int) -> Mix:
    """`count` draws of CutMix."""
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
    """The operation that mixes as `draw(key, count, height, width)` says, with a probability."""
    if per not in ("batch", "example"):
        raise ValueError(f"unknown per {per!r}; allowed: batch, example")
    check_probability(probability=probability)

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
      per: "batch" draws one λ for all, "example" one for each.
      probability: of mixing; drawn as often as λ.
    """
    _check_alpha(alpha=alpha)
    return _operation(lambda key, n, height, width: draw_mixup(key, n, alpha), per, probability)


def cutmix(alpha: float = 1.0, per: str = "batch", probability: float = 1.0):
    """Pastes a box of one image into another (Yun et al., 2019, arXiv:1905.04899).

    The box has the image's aspect and 1−λ of its area; its centre is uniform over the pixels, and
    it is cut at the border. Labels are mixed by the area that is left.

    Args:
      alpha: λ is drawn from Beta(alpha, alpha).
      per: "batch" draws one box for all, "example" one for each.
      probability: of mixing; drawn as often as λ.
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
    """Either of the two, as in the recipes of DeiT and Swin.

    Args:
      mixup_alpha: see `mixup`.
      cutmix_alpha: see `cutmix`.
      switch_probability: of CutMix.
      per: "batch" draws once for all, "example" for each.
      probability: of mixing at all.
    """
    _check_alpha(mixup_alpha=mixup_alpha, cutmix_alpha=cutmix_alpha)
    check_probability(switch_probability=switch_probability)

    def draw(key, count, height, width):
        switch_key, mixup_key, cutmix_key = jax.random.split(key, 3)
        return _choose(
            jax.random.bernoulli(switch_key, switch_probability, (count,)),
            draw_cutmix(cutmix_key, count, cutmix_alpha, height, width),
            draw_mixup(mixup_key, count, mixup_alpha),
        )

    return _operation(draw, per, probability)


def _beta_quantiles(alpha: float, lowest: float = 0.0) -> np.ndarray:
    """Quantiles of Beta(alpha, alpha) from that of `lowest` to 1, on a grid of 4,097 probabilities.

    A uniform draw between two of them replaces `jax.random.beta`, whose rejection loops take longer
    to compile than the rest of a small network's training step.
    """
    grid = np.linspace(lowest, 1, 4097)
    return scipy.special.betaincinv(alpha, alpha, grid).astype(np.float32)


def _quantile(uniform: jax.Array, quantiles: np.ndarray) -> jax.Array:
    place = uniform * (len(quantiles) - 1)
    return jnp.interp(place, jnp.arange(len(quantiles)), quantiles)


OPERATIONS = {"mixup": mixup, "cutmix": cutmix, "mixup_or_cutmix": mixup_or_cutmix}
