"""Batches: a blank batch for tracing, and views of images as separate examples."""

import jax
import jax.numpy as jnp


def blank_batch(
    input_shape: tuple[int, ...], num_classes: int = 0, label_shape: tuple[int, ...] = ()
) -> dict[str, jax.Array]:
    """Return a batch of one zero image, with class 0 or with `num_classes` probabilities of 0.

    `input_shape` is (height, width, channels) of the image. With (length,) the batch has a sequence
    of this length, all of class 0, instead of the image.
    With `label_shape` (T,), the label is a sequence of T classes. Without it, a task of sequences
    reads the class as a sequence of one.
    """
    label = jnp.zeros((1, num_classes)) if num_classes else jnp.zeros((1, *label_shape), jnp.int32)
    kind, dtype = ("sequence", jnp.int32) if len(input_shape) == 1 else ("image", jnp.float32)
    return {
        kind: jnp.zeros((1, *input_shape), dtype),
        "label": label,
        "position": jnp.zeros(1, jnp.int32),
    }


def fold_views(batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Convert views [B, V, H, W, C] to separate examples [B·V, H, W, C].

    Sequences have no views.
    """
    if "image" not in batch or batch["image"].ndim == 4:
        return batch
    count, views = batch["image"].shape[:2]
    label = batch["label"]
    if jnp.issubdtype(label.dtype, jnp.integer):  # a class or a sequence, the same for all views
        label = jnp.repeat(label[:, None], views, axis=1)
    return {
        "image": batch["image"].reshape(count * views, *batch["image"].shape[2:]),
        "label": label.reshape(count * views, *label.shape[2:]),
        "position": (batch["position"][:, None] * views + jnp.arange(views)).reshape(-1),
    }
