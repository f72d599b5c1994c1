"""Augmentation of a batch inside the jitted training step."""

from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from cv_jax.augment import Augmentation, apply_batch, apply_epoch, apply_images
from cv_jax.random_streams import stream_key


def normalise(config: ml_collections.ConfigDict, images: jax.Array) -> jax.Array:
    """Normalise images on the scale 0…255 with `config.data.mean` and `config.data.std`."""
    mean, std = jnp.asarray(config.data.mean) * 255, jnp.asarray(config.data.std) * 255
    return (images - mean) / std


def normalise_batch(config: ml_collections.ConfigDict, batch: dict[str, Any]) -> dict[str, Any]:
    """Return a batch with normalised float32 images; one without images is returned unchanged."""
    if "image" not in batch:
        return batch
    return {**batch, "image": normalise(config, jnp.asarray(batch["image"], jnp.float32))}


def to_pixels(config: ml_collections.ConfigDict, images: np.ndarray) -> np.ndarray:
    """Return normalised images on the scale 0…255: the inverse of `normalise`."""
    return (images * np.asarray(config.data.std) + np.asarray(config.data.mean)) * 255


def augment_batch(
    config: ml_collections.ConfigDict,
    augmentation: Augmentation,
    num_classes: int,
    step: jax.Array,
    batch: dict[str, jax.Array],
) -> dict[str, jax.Array]:
    """Return the model's input at `step`: augmented, normalised, erased and mixed.

    Args:
      config: config of the run.
      augmentation: the parsed `config.augment`.
      num_classes: number of classes of the dataset.
      step: number of completed updates.
      batch: image uint8 [B, H, W, C], or [B, views, H, W, C] if host operations drew each view, and
        label int [B], or int [B, T] for sequences; the rows of the global batch in order. For
        operations that depend on the epoch also example and epoch, int32 [B]; see `TrainBatches`.

    Returns:
      image float32 [B, H, W, C] and label, unchanged or, after mixing, float32 [B, num_classes].
      With several views: image [B, views, H, W, C] and, after mixing, label
      [B, views, num_classes]. A batch without images is returned unchanged.
    """
    if "image" not in batch:
        return batch
    images, labels, views = batch["image"], batch["label"], augmentation.stream.views
    if views > 1:
        if images.ndim == 4:  # no random host operations
            images = jnp.repeat(images[:, None], views, axis=1)
        of_views = [
            _augment_view(
                config, augmentation, num_classes, step, {**batch, "image": images[:, i]}, i
            )
            for i in range(views)
        ]
        images, soft = (jnp.stack(parts, axis=1) for parts in zip(*of_views, strict=True))
        return {"image": images, "label": soft if augmentation.batch else labels}
    images, labels = _augment_view(config, augmentation, num_classes, step, batch)
    return {"image": images, "label": labels}


def _augment_view(config, augmentation, num_classes, step, batch, view=None):
    """Augment one image per example; `view` is the index of the view, `None` for a single one."""
    images, labels = batch["image"], batch["label"]

    def key(name, step=step):
        key = stream_key(config.seed, name, step)
        return key if view is None else jax.random.fold_in(key, view)

    def each(key, numbers):
        return jax.vmap(lambda number: jax.random.fold_in(key, number))(numbers)

    def keys(name):
        return each(key(name), jnp.arange(len(images)))

    images = images.astype(jnp.float32)
    if augmentation.epoch:
        of_examples = each(key("example", 0), batch["example"])
        images = apply_epoch(augmentation.epoch, of_examples, batch["epoch"], images)
    images = normalise(config, apply_images(augmentation.image, keys("augment"), images))
    images = apply_images(augmentation.erase, keys("erase"), images)
    if augmentation.batch:
        if labels.ndim == 2 and jnp.issubdtype(labels.dtype, jnp.integer):
            raise ValueError("labels that are sequences cannot be mixed")
        labels = labels if labels.ndim == 2 else jax.nn.one_hot(labels, num_classes)
        images, labels = apply_batch(augmentation.batch, key("mix"), images, labels)
    return images, labels
