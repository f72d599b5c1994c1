"""The first images of the first training batch, as the training step sees them."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cv_jax.augment import Augmentation
from cv_jax.augment.batch import augment_batch, to_pixels
from cv_jax.data.pipeline import Images, TrainBatches
from cv_jax.data.source import name_of
from cv_jax.devices import compile_options

MOST_MIXED = 512  # rows of the batch that are augmented


class Seen(NamedTuple):
    """An image of the training batch.

    Attributes:
      name: of the example.
      original: uint8 [H, W, C], before the augmentation.
      views: uint8 [V, H, W, C], the inputs of the step; normalised images are put back on the scale
        of pixels.
      labels: the label of each view in words, or one for all views.
    """

    name: str
    original: np.ndarray
    views: np.ndarray
    labels: tuple[str, ...]


def first_batch(
    config: Any, images: Images, augmentation: Augmentation, classes: tuple[str, ...], count: int
) -> tuple[list[Seen], str]:
    """Return the first images of batch 0, and a note if the mixing of the run is shown in part.

    Args:
      config: the run's config.
      images: the training split; its examples are images.
      augmentation: the parsed `config.augment`.
      classes: names of the classes; () if unknown.
      count: largest number of images.
    """
    size = config.batch_size
    mixed = min(size, max(MOST_MIXED, count) if augmentation.batch else count)
    batches = TrainBatches(
        images,
        augmentation.host,
        seed=config.seed,
        batch_size=size,
        rows=_ends(size, mixed) if augmentation.batch else np.arange(mixed),
        total_steps=1,
        stream=augmentation.stream,
        places=bool(augmentation.epoch),
    )
    num_classes = images.source.num_classes
    step = jax.jit(
        lambda batch: augment_batch(config, augmentation, num_classes, jnp.int32(0), batch),
        compiler_options=compile_options.once(),
    )
    made = jax.tree.map(np.asarray, step(batches[0]))
    after = np.clip(np.round(to_pixels(config, made["image"][:count])), 0, 255).astype(np.uint8)
    seen = [
        Seen(
            name_of(images.source, config.data.train_split, index),
            np.asarray(images.get(index)[0]),
            after[row] if after.ndim == 5 else after[row : row + 1],
            _in_words(made["label"][row], classes),
        )
        for row, index in enumerate(batches.indices(0)[: min(count, size)])
    ]
    if mixed < size and augmentation.batch:
        return seen, (
            f"The batch has {size:,} images; {mixed} of them were mixed here, so the shares of the "
            "partners differ from those of the run."
        )
    return seen, ""


def _ends(size: int, count: int) -> np.ndarray:
    """Return `count` rows of a batch, its first and its last ones.

    The partner of row i is row B−1−i.
    """
    rows = np.arange(size)
    return (
        rows if count >= size else np.concatenate([rows[: -(-count // 2)], rows[-(count // 2) :]])
    )


def _in_words(label: np.ndarray, classes: tuple[str, ...]) -> tuple[str, ...]:
    """Return the label of an augmented image in words; shares after mixing."""

    def named(k):
        return classes[k] if k < len(classes) else str(k)

    if label.ndim == 0:
        return (named(int(label)),)
    if np.issubdtype(label.dtype, np.integer):  # a sequence
        return (" ".join(named(int(k)) for k in label if k >= 0),)
    if label.ndim == 2:  # several views
        return tuple(line for view in label for line in _in_words(view, classes))
    order = [k for k in np.argsort(-label, kind="stable")[:3] if label[k] > 0.005]
    return (", ".join(f"{named(int(k))} {label[k]:.0%}" for k in order),)
