"""Tasks: how a model gets its inputs from a batch, and how its output is scored.

A `Task` has all differences between kinds of models, so all models share the loops of training,
evaluation and prediction. The registry entry of a model names its task.
"""

from collections.abc import Callable

import flax.linen as nn
import ml_collections

from cv_jax import models
from cv_jax.tasks.classification import classification
from cv_jax.tasks.reconstruction import reconstruction
from cv_jax.tasks.sequences import transcription, translation
from cv_jax.tasks.task import Task

# `Entry.task` → `(config, model) → Task`.
TASKS: dict[str, Callable[[ml_collections.ConfigDict, nn.Module], Task]] = {
    "classification": classification,
    "reconstruction": reconstruction,
    "transcription": transcription,
    "translation": translation,
}


def task_name(config: ml_collections.ConfigDict) -> str:
    """Return the name of the task of the config's model, a key of `TASKS`."""
    return models.MODELS[config.model.name].task


def reads(config: ml_collections.ConfigDict) -> str:
    """Return what the config's model reads, and its key in a batch: "image" or "sequence"."""
    return "sequence" if task_name(config) == "translation" else "image"


def make_task(config: ml_collections.ConfigDict, model: nn.Module) -> Task:
    """Return the task of the config's model.

    Raises:
      InputError: the config does not fit this task.
    """
    return TASKS[task_name(config)](config, model)


__all__ = ["TASKS", "Task", "make_task", "reads", "task_name"]
