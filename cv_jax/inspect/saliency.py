"""Saliency maps: the pixels on which the logit of a class depends.

A method is a function `(model, variables, images, classes, …) → map`, float32 [B, H, W], where a
larger value means more evidence for the class. Gradients are summed over the channels of a pixel;
methods with signed maps keep the sign. `METHODS` has all of them under one interface.
"""

from collections.abc import Callable, Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cv_jax.inspect import network, occlusion, places, rollout
from cv_jax.inspect.network import IMAGE


class NoPlaces(ValueError):
    """The model has no feature with places in the image, so the method does not apply."""


def gradient(
    model: nn.Module, variables: Mapping, images: jax.Array, classes: jax.Array
) -> np.ndarray:
    """Return the largest absolute gradient over the channels (Simonyan et al., 2014,
    arXiv:1312.6034, section 3.1)."""
    slopes = pixel_gradient(model, variables, images, classes)
    return np.asarray(jnp.abs(slopes).max(axis=-1))


def gradient_times_input(
    model: nn.Module, variables: Mapping, images: jax.Array, classes: jax.Array
) -> np.ndarray:
    """Return gradient × normalised pixel, summed over the channels (Shrikumar et al., 2016,
    arXiv:1605.01713)."""
    return np.asarray((pixel_gradient(model, variables, images, classes) * images).sum(axis=-1))


def integrated_gradients(
    model: nn.Module,
    variables: Mapping,
    images: jax.Array,
    classes: jax.Array,
    *,
    baseline: jax.Array | float = 0.0,
    steps: int = 50,
) -> np.ndarray:
    """Return integrated gradients (Sundararajan et al., 2017, arXiv:1703.01365).

    The sum over all pixels is the logit of the image minus the logit of the baseline, up to the
    error of the integral, which is computed by the midpoint rule.

    Args:
      model: a classifier.
      variables: its variables.
      images: float [B, H, W, C], normalised.
      classes: int [B].
      baseline: an image or a value that broadcasts to `images`; 0 is the mean of the normalisation.
      steps: points of the path.
    """
    total = jnp.zeros_like(images)
    for step in range(steps):
        point = baseline + (step + 0.5) / steps * (images - baseline)
        total = total + pixel_gradient(model, variables, point, classes)
    return np.asarray((total / steps * (images - baseline)).sum(axis=-1))


def smoothgrad(
    model: nn.Module,
    variables: Mapping,
    images: jax.Array,
    classes: jax.Array,
    *,
    samples: int = 25,
    noise: float = 0.15,
    seed: int = 0,
) -> np.ndarray:
    """Return the gradient averaged over noisy images (Smilkov et al., 2017, arXiv:1706.03825).

    Args:
      model: a classifier.
      variables: its variables.
      images: float [B, H, W, C], normalised.
      classes: int [B].
      samples: number of noisy images.
      noise: standard deviation of the noise, as a share of the range of each image.
      seed: of the noise.
    """
    axes = (1, 2, 3)
    spread = noise * (images.max(axis=axes) - images.min(axis=axes))[:, None, None, None]
    total = jnp.zeros_like(images)
    for key in jax.random.split(jax.random.key(seed), samples):
        moved = images + spread * jax.random.normal(key, images.shape)
        total = total + pixel_gradient(model, variables, moved, classes)
    return np.asarray(jnp.abs(total / samples).max(axis=-1))


def grad_cam(
    model: nn.Module,
    variables: Mapping,
    images: jax.Array,
    classes: jax.Array,
    *,
    feature: str | None = None,
) -> np.ndarray:
    """Return Grad-CAM (Selvaraju et al., 2017, arXiv:1610.02391), resized to the image.

    The channels of a map are summed with the mean of their gradient over the map as weights, and
    negative sums are set to zero. Tokens are put back into a map.

    Args:
      model: a classifier.
      variables: its variables.
      images: float [B, H, W, C], normalised.
      classes: int [B].
      feature: name of the feature; default: see `last_map`.

    Raises:
      NoPlaces: the model has no such feature, or the feature has no places in the image.
    """
    model, variables = network.readable(model, variables)
    grid = places.token_grid(model, (images[:1],), images.shape[1:3])
    known = _maps(model, variables, images, grid)
    if feature is None:
        feature = last_map(model, variables, images, grid)
    if feature not in known:
        raise NoPlaces(f"no feature {feature!r} with places in the image; allowed: {known}")
    found, gradients = network.feature_gradients(model, variables, images, classes, (feature,))
    value, slope = (places.to_map(x[feature], grid) for x in (found, gradients))
    weights = slope.mean(axis=(1, 2), keepdims=True)
    cam = jax.nn.relu((weights * value).sum(axis=-1))
    return np.asarray(jax.image.resize(cam, images.shape[:3], "linear"))


def last_map(
    model: nn.Module, variables: Mapping, images: jax.Array, grid: places.Grid | None
) -> str:
    """Return the last feature that is a map and whose units the logits depend on.

    In a ResNet it is the last block, in a Swin the last norm, in a ViT with mean pooling the last
    norm, and in a ViT with a class token the last block but one: the class token reads patches in
    the last block for the last time.

    Raises:
      NoPlaces: the model has no such feature.
    """
    names = _maps(model, variables, images, grid)
    classes = jnp.zeros(1, int)
    _, gradients = network.feature_gradients(model, variables, images[:1], classes, names)
    for name in reversed(names):
        if jnp.abs(places.to_map(gradients[name], grid)).max() > 0:
            return name
    raise NoPlaces("the model has no feature with places in the image")


def _maps(model, variables, images, grid) -> tuple[str, ...]:
    shapes = network.shapes(model, variables, images[:1])
    zeros = {name: jnp.zeros((1, *x.shape[1:])) for name, x in shapes.items()}
    return tuple(places.maps(zeros, grid))


def pixel_gradient(
    model: nn.Module, variables: Mapping, images: jax.Array, classes: jax.Array
) -> jax.Array:
    """Return the gradient of each image's logit of its class: float [B, H, W, C]."""
    return network.feature_gradients(model, variables, images, classes, (IMAGE,))[1][IMAGE]


def _rollout(model, variables, images, classes):
    found = rollout.rollout(model, variables, images)
    if found is None:
        raise NoPlaces("the model has no attention over tokens of the image")
    return np.asarray(jax.image.resize(jnp.asarray(found), images.shape[:3], "linear"))


def random_map(
    model: nn.Module, variables: Mapping, images: jax.Array, classes: jax.Array, *, seed: int = 0
) -> np.ndarray:
    """Return uniform noise: the control that every method must beat."""
    return np.asarray(jax.random.uniform(jax.random.key(seed), images.shape[:3]))


# Name → method with its default options.
METHODS: dict[str, Callable[..., np.ndarray]] = {
    "gradient": gradient,
    "gradient_times_input": gradient_times_input,
    "integrated_gradients": integrated_gradients,
    "smoothgrad": smoothgrad,
    "grad_cam": grad_cam,
    "rollout": _rollout,
    "occlusion": occlusion.occlusion,
    "rise": occlusion.rise,
    "random": random_map,
}
