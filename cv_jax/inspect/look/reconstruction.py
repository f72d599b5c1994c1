"""Pictures of what a masked autoencoder sees and predicts."""

from collections.abc import Sequence

import jax
import numpy as np
from matplotlib.figure import Figure

from cv_jax.inspect import reconstruction
from cv_jax.inspect.look import figures
from cv_jax.inspect.look.subject import DoesNotApply, Finding, Subject
from cv_jax.models.mae import MAE

GREY = 127  # of removed patches


def look_at_reconstruction(subject: Subject) -> list[Finding]:
    """Original, masked and reconstructed images of a masked autoencoder, and the error."""
    model = subject.model
    if not isinstance(model, MAE):
        raise DoesNotApply(f"{type(model).__name__} is not a masked autoencoder")
    found = reconstruction.reconstruct(model, subject.variables, subject.images, *subject.others)
    found = jax.device_get(found)
    figure = draw(subject.pixels, subject.to_pixels(found.image), found, subject.names)
    rows = [
        {
            "image": name,
            "removed": float(found.removed[i].mean()),
            "loss": float(found.loss[i]),
            "error": float(found.error[i]),
            "error_of_visible_mean": float(found.visible_mean[i]),
            "error_of_patch_mean": float(found.patch_mean[i]),
        }
        for i, name in enumerate(subject.names)
    ]
    text = f"{in_words(found)}, the mean of {len(rows)} images"
    if model.norm_pix_loss:
        text += (
            f"; standardised patches are drawn with their own mean, whose error is "
            f"{found.patch_mean.mean():.4f}"
        )
    return [Finding("reconstruction", text, figure, rows)]


def in_words(found: reconstruction.Reconstruction) -> str:
    """Return the mean errors of the model and of the mean of the visible pixels."""
    return (
        f"the mean squared error over removed patches is {found.error.mean():.4f}, of the mean of "
        f"the visible pixels {found.visible_mean.mean():.4f}"
    )


def draw(
    originals: np.ndarray,
    reconstructed: np.ndarray,
    found: reconstruction.Reconstruction,
    names: Sequence[str],
) -> Figure:
    """Draw originals, masked images and reconstructions, one column for each image.

    Args:
      originals: [B, H, W, C] on the scale 0…255.
      reconstructed: the images of `found`, on the same scale.
      found: the reconstructions.
      names: name of each image.
    """
    originals, reconstructed = (
        np.uint8(np.round(np.clip(x, 0, 255))) for x in (originals, reconstructed)
    )
    title = "Original, masked, and reconstructed: removed patches are predicted"
    figure, axes = figures.panels(3, len(originals), title)
    for i, name in enumerate(names):
        masked = np.where(found.removed[i, :, :, None], np.uint8(GREY), originals[i])
        figures.show(axes[0, i], originals[i], name)
        figures.show(axes[1, i], masked, f"{found.removed[i].mean():.0%} removed")
        figures.show(axes[2, i], reconstructed[i], f"error {found.error[i]:.3f}")
    return figure
