"""Operations over the batch, on the device: `(key, images, labels) → (images, labels)`.

Images are float32 [B, H, W, C], normalised; labels come and go as probabilities float32
[B, classes]. B is the global batch: partners are chosen by position in it, whatever device holds
them.
"""

import jax
import jax.numpy as jnp


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

    def apply(key, images, labels):
        count = len(images) if per == "example" else 1
        share = jax.random.beta(key, alpha, alpha, (count,))
        # λ and 1−λ are equally likely and the pairing is mutual: the larger one stays at home.
        share = jnp.maximum(share, 1 - share)

        def blend(x):
            s = share.reshape(-1, *(1,) * (x.ndim - 1))
            return s * x + (1 - s) * x[::-1]

        return blend(images), blend(labels)

    return apply


OPERATIONS = {"mixup": mixup}
