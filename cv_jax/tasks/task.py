"""The interface between a model and the training, evaluation and prediction steps."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax


class Task(NamedTuple):
    """Inputs and scores of a model.

    A batch is a dict: `image` float32 [B, H, W, C], normalised, or for a dataset without images
    `sequence`, classes int [B, S] with −1 after the last; `label` int [B], float [B, K], or for
    sequences of classes int [B, T] with −1 after the last class; `position` int [B], the index
    of each example in the global batch (in evaluation: in the split).

    Attributes:
      inputs: `(batch, rngs) → positional arguments of the model`.
      score: `(output of the model, batch) → (loss [B], correct bool [B])`. `correct` is `None` for
        a task without right and wrong outputs; such a task has no accuracy.
      classes: largest number of classes that the model supports; `None` for any number.
      class_scores: `output of the model → scores [B, K]`. The largest score is the prediction; the
        first scores belong to the classes of the dataset. `None` for a task without classes.
      encoder: module that computes features of a whole image with the same parameters; `None` for
        the model itself.
      written: `batch → tokens that a decoder must write`, int [B, T + 1]: the sequence, EOS, then
        PAD. `None` for a task without sequences.
    """

    inputs: Callable[[dict, dict], tuple[jax.Array, ...]]
    score: Callable[[Any, dict], tuple[jax.Array, jax.Array | None]]
    classes: int | None = None
    class_scores: Callable[[Any], jax.Array] | None = None
    encoder: nn.Module | None = None
    written: Callable[[dict], jax.Array] | None = None
