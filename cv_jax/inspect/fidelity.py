"""Numbers by which saliency methods are compared.

Deletion and insertion (Petsiuk et al., 2018, arXiv:1806.07421, section 4.2): the most salient
pixels are removed from an image first, or inserted into a blurred image first. Good maps have a
small area under the deletion curve and a large one under the insertion curve. Pointing (Zhang et
al., 2016, arXiv:1608.00507): the maximum of the map must be inside the object. Randomisation
(Adebayo et al., 2018, arXiv:1810.03292): a map that does not change when the weights are random
does not explain the weights. A random map (`saliency.random_map`) is the control of all of them.
"""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cv_jax.inspect.occlusion import probability


def deletion(
    model: nn.Module,
    variables: Mapping,
    images: jax.Array,
    classes: jax.Array,
    maps: np.ndarray,
    *,
    steps: int = 20,
) -> np.ndarray:
    """Return the probability of the class while the most salient pixels are set to 0.

    Args:
      model: a classifier.
      variables: its variables.
      images: float [B, H, W, C], normalised.
      classes: int [B].
      maps: float [B, H, W], larger for more salient pixels.
      steps: number of steps until every pixel is removed.

    Returns:
      float32 [B, steps + 1]; the first value is of the whole image.
    """
    return _curve(model, variables, images, jnp.zeros_like(images), classes, maps, steps)


def insertion(
    model: nn.Module,
    variables: Mapping,
    images: jax.Array,
    classes: jax.Array,
    maps: np.ndarray,
    *,
    steps: int = 20,
    blur: float | None = None,
) -> np.ndarray:
    """Return the probability of the class while the most salient pixels replace a blurred image.

    Args:
      model: a classifier.
      variables: its variables.
      images: float [B, H, W, C], normalised.
      classes: int [B].
      maps: float [B, H, W].
      steps: number of steps until every pixel is inserted.
      blur: standard deviation of the Gaussian blur in pixels; default: a tenth of the height. The
        paper's blur, 5 pixels at a height of 224, leaves large objects recognisable.

    Returns:
      float32 [B, steps + 1]; the last value is of the whole image.
    """
    from scipy import ndimage  # here, because the import takes a third of a second

    blur = images.shape[1] / 10 if blur is None else blur
    blurred = ndimage.gaussian_filter(np.asarray(images), (0, blur, blur, 0))
    return _curve(model, variables, jnp.asarray(blurred), images, classes, maps, steps)


def area(curves: np.ndarray) -> np.ndarray:
    """Return the area under each curve [B, steps + 1] over a range of length one, by trapezoids."""
    return (curves[:, 1:] + curves[:, :-1]).mean(axis=1) / 2


def _curve(model, variables, start, end, classes, maps, steps) -> np.ndarray:
    """Replace the pixels of `start` by those of `end`, the most salient first."""
    pixels = maps[0].size
    order = np.argsort(-np.asarray(maps).reshape(len(maps), -1), axis=1, kind="stable")
    rank = np.argsort(order, axis=1).reshape(maps.shape)
    scores = []
    for count in np.linspace(0, pixels, steps + 1).round().astype(int):
        mixed = jnp.where((rank < count)[..., None], end, start)
        scores.append(probability(model, variables, mixed, classes))
    return np.stack(scores, axis=1)


def pointing(maps: np.ndarray, objects: np.ndarray) -> np.ndarray:
    """Return whether the maximum of each map is inside the object: bool [B].

    Args:
      maps: float [B, H, W]. A constant map points nowhere.
      objects: bool [B, H, W], the pixels of the object.
    """
    flat = np.asarray(maps).reshape(len(maps), -1)
    hits = np.take_along_axis(objects.reshape(len(maps), -1), flat.argmax(axis=1)[:, None], axis=1)
    return hits[:, 0] & (flat.max(axis=1) > flat.min(axis=1))


def similarity(maps: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return Spearman's rank correlation of each pair of maps: float64 [B]; NaN for a constant."""
    from scipy import stats  # here, because the import takes half a second

    def correlation(a, b):
        if a.min() == a.max() or b.min() == b.max():
            return np.nan
        return stats.spearmanr(a.ravel(), b.ravel()).statistic

    return np.array([correlation(a, b) for a, b in zip(maps, others, strict=True)])


def randomisation(
    method: Callable[..., np.ndarray],
    model: nn.Module,
    variables: Mapping[str, Any],
    images: jax.Array,
    classes: jax.Array,
    *,
    seed: int = 0,
) -> np.ndarray:
    """Return the rank correlation of maps with trained and with random weights: float64 [B].

    Args:
      method: a function of `saliency.METHODS`.
      model: a classifier.
      variables: its trained variables.
      images: float [B, H, W, C], normalised.
      classes: int [B].
      seed: of the random weights: every array of parameters is shuffled, which keeps the
        distribution of its values.
    """
    rng = np.random.default_rng(seed)

    def shuffled(x):
        return rng.permutation(np.asarray(x).ravel()).reshape(x.shape)

    random = {**variables, "params": jax.tree.map(shuffled, variables["params"])}
    trained = method(model, variables, images, classes)
    return similarity(trained, method(model, random, images, classes))
