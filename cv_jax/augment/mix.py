"""Operations over the batch, on the device: `(key, images, labels) → (images, labels)`.

Images are float32 [B, H, W, C], normalised; labels come and go as probabilities float32
[B, classes]. B is the global batch: partners are chosen by position in it, whatever device holds
them.
"""

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special


def mixup(alpha: float = 0.2, per: str = "batch"):
    """Convex combinations of two examples and their labels (Zhang et al., 2018, arXiv:1710.09412).

    The partner of position i is position B−1−i: batches are shuffled, so any fixed pairing is a
    random one.

    Args:
      alpha: λ is drawn from Beta(alpha, alpha).
      per: "batch" draws one λ for all, "example" one for each.
    """
    if alpha <= 0:
        raise ValueError(f"alpha must be positive, got {alpha}")
    if per not in ("batch", "example"):
        raise ValueError(f"unknown per {per!r}; allowed: batch, example")

    # λ and 1−λ are equally likely and the pairing is mutual: the larger one stays at home.
    quantiles = _upper_beta_quantiles(alpha)

    def apply(key, images, labels):
        count = len(images) if per == "example" else 1
        place = jax.random.uniform(key, (count,)) * (len(quantiles) - 1)
        share = jnp.interp(place, jnp.arange(len(quantiles)), quantiles)
        # On any layout of devices the same bits: the share is rounded before it is used, and the
        # blend has one product, so that compilers cannot choose which of two to fuse with the sum.
        share = jax.lax.optimization_barrier(share)

        def blend(x):
            s, partner = share.reshape(-1, *(1,) * (x.ndim - 1)), x[::-1]
            return partner + s * (x - partner)

        return blend(images), blend(labels)

    return apply


def _upper_beta_quantiles(alpha: float) -> np.ndarray:
    """Quantiles of Beta(alpha, alpha) from the median to 1, on a grid of 4,097 probabilities.

    A uniform draw between two of them replaces `jax.random.beta`, whose rejection loops take longer
    to compile than the rest of a small network's training step.
    """
    return scipy.special.betaincinv(alpha, alpha, np.linspace(0.5, 1, 4097)).astype(np.float32)


OPERATIONS = {"mixup": mixup}
