"""One picture for the prediction of one image: the image, and what speaks for its class."""

from collections.abc import Mapping
from pathlib import Path

import flax.linen as nn
import jax
import numpy as np

from cv_jax.errors import InputError
from cv_jax.inspect import network, places, saliency
from cv_jax.inspect.look import figures


def explained_feature(model: nn.Module, variables: Mapping, images: jax.Array) -> str:
    """Return the feature that Grad-CAM reads; see `saliency.last_map`.

    Args:
      model: a classifier.
      variables: its variables.
      images: float [B, H, W, C], normalised; of the size of the images to explain.

    Raises:
      InputError: the model has no feature with places in the image.
    """
    model, variables = network.readable(model, variables)
    try:
        grid = places.token_grid(model, (images[:1],), images.shape[1:3])
        return saliency.last_map(model, variables, images, grid)
    except (saliency.NoPlaces, NotImplementedError) as error:  # a primitive without a rule
        raise InputError(f"--explain: Grad-CAM does not apply: {error}") from None


def draw(file: Path, pixels: np.ndarray, values: np.ndarray, title: str, feature: str) -> None:
    """Write a picture: the image, and the map over it.

    Args:
      file: the PNG.
      pixels: uint8 [H, W, C].
      values: float [H, W], evidence for the class.
      title: of the picture.
      feature: the feature that the map was made from.
    """
    figure, axes = figures.panels(1, 2, title)
    figures.show(axes[0, 0], pixels, "image")
    figures.overlay(axes[0, 1], pixels, values, f"Grad-CAM, {feature}")
    figure.savefig(file)


def maps(
    model: nn.Module, variables: Mapping, images: jax.Array, classes: np.ndarray, feature: str
) -> np.ndarray:
    """Return Grad-CAM of the class of each image: float [B, H, W]; see `saliency.grad_cam`."""
    return saliency.grad_cam(model, variables, images, jax.numpy.asarray(classes), feature=feature)
