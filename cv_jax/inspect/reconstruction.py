"""Reconstructions of a masked autoencoder, and their error on the removed patches.

Errors are in the units of the model's input, so that they can be compared between targets. Two
constants are the baselines. The mean of the visible pixels is what can be known without a model.
The mean of each removed patch is what a picture of a standardised prediction gets from the
original (see `mae.reconstruction`), so such a prediction has to be better than this one.
"""

import functools
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from cv_jax.inspect import network
from cv_jax.models import mae


class Reconstruction(NamedTuple):
    """Reconstructions of B images, and mean squared errors over the pixels of removed patches.

    Attributes:
      image: float32 [B, H, W, C], visible patches of the input and predicted removed patches.
      removed: bool [B, H, W].
      loss: float32 [B], the loss of the training.
      error: float32 [B], error of the prediction.
      visible_mean: float32 [B], error of the mean of the visible pixels, for each channel.
      patch_mean: float32 [B], error of the mean of each removed patch, over pixels and channels.
    """

    image: jax.Array
    removed: jax.Array
    loss: jax.Array
    error: jax.Array
    visible_mean: jax.Array
    patch_mean: jax.Array


@functools.partial(jax.jit, static_argnums=0)
def reconstruct(
    model: mae.MAE, variables: Mapping, images: jax.Array, noise: jax.Array | None = None
) -> Reconstruction:
    """Return the reconstructions of images.

    Args:
      model: a masked autoencoder.
      variables: its variables.
      images: float [B, H, W, C], normalised.
      noise: float [B, patches], which determines the removed patches; `None`: the same masks at
        every call.
    """
    prediction, features = network.run(model, variables, images, noise)
    return compare(model, images, prediction, features["mask"])


def compare(
    model: mae.MAE, images: jax.Array, prediction: jax.Array, mask: jax.Array
) -> Reconstruction:
    """Return the reconstructions of a model's output.

    Args:
      model: the masked autoencoder.
      images: float [B, H, W, C], its input.
      prediction: float [B, L, patch_size²·C], its output.
      mask: float [B, L], 1 for removed patches.
    """
    size, normalize = model.patch_size, model.norm_pix_loss
    patches = mae.patchify(images, size)
    pixels = jnp.broadcast_to(mask[:, :, None], patches.shape)
    removed = mae.unpatchify(pixels, size, model.check()[0])

    def error(guess):
        return (jnp.square(guess - images) * removed).sum((1, 2, 3)) / removed.sum((1, 2, 3))

    visible = (images * (1 - removed)).sum((1, 2)) / (1 - removed).sum((1, 2))
    constant = jnp.broadcast_to(patches.mean(axis=-1, keepdims=True), patches.shape)
    predicted = mae.reconstruction(images, prediction, size, normalize)
    return Reconstruction(
        image=jnp.where(removed > 0, predicted, images),
        removed=removed[..., 0] > 0,
        loss=mae.reconstruction_loss(images, prediction, mask, size, normalize),
        error=error(predicted),
        visible_mean=error(visible[:, None, None]),
        patch_mean=error(mae.unpatchify(constant, size, model.check()[0])),
    )
