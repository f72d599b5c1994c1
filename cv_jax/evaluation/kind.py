"""The interface of a kind of evaluation: plain data and functions."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, Protocol

import flax.linen as nn
import jax
import ml_collections
import numpy as np

from cv_jax.augment import Augmentation
from cv_jax.config.fields import FIELDS, UNITS
from cv_jax.data.pipeline import Images
from cv_jax.data.source import Source
from cv_jax.tasks import Task


class Option(NamedTuple):
    """An option of an evaluation.

    Attributes:
      type: type hint of the value; see `cv_jax.config.values`.
      default: value of an option that is not given.
    """

    type: Any
    default: Any


# Options of every kind. `plan` replaces the default `None` by a value from the config.
COMMON = {
    "name": Option(str | None, None),
    "dataset": Option(str | None, None),
    "split": Option(str | None, None),
    "preprocess": Option(str | None, None),
    **{f"every_{unit}": Option(FIELDS[f"eval.every_{unit}"].type, None) for unit in UNITS},
}


class Evaluation(NamedTuple):
    """One checked evaluation with its data.

    Attributes:
      name: the `split` of its metric lines; "test" for the run's own evaluation.
      kind: a key of `kinds.KINDS`.
      every: interval in steps; 0 means at the end only. The last step always runs it.
      images: the split that is scored.
      views: test-time views of each image.
      train_images: training examples of a probe; `None` for other kinds.
      num_classes: number of classes of the dataset.
      classes: names of the classes; `None` if unknown.
      options: all options of the kind, resolved.
      fingerprint: JSON-serialisable identity of the data.
    """

    name: str
    kind: str
    every: int
    images: Images
    views: tuple[Callable, ...]
    train_images: Images | None
    num_classes: int
    classes: tuple[str, ...] | None
    options: dict[str, Any]
    fingerprint: dict[str, Any]


class Scores(NamedTuple):
    """The result of one evaluation.

    Attributes:
      metrics: name → number; one metric line.
      details: JSON-serialisable results that do not fit into a line, such as a confusion matrix.
      predictions: arrays [N] in the order of the split that the metrics were computed from; empty
        if the kind predicts no class for an example.
    """

    metrics: dict[str, float]
    details: dict[str, Any]
    predictions: dict[str, np.ndarray] = {}


class FieldName(NamedTuple):
    """`field(option)`: the name of an option in error messages.

    Attributes:
      name: name of the evaluation; "" for the run's own, whose options are config fields.
    """

    name: str

    def __call__(self, option: str = "") -> str:
        if self.name:
            return f"config.eval.extra: {self.name}" + (f": {option}" if option else "")
        known = {"split": "data.eval_split", "preprocess": "eval_preprocess"}
        return f"config.{known.get(option, f'eval.{option}')}"


class Request(NamedTuple):
    """An evaluation that the config asks for, before the check of its kind.

    Attributes:
      config: config of the run.
      model: the evaluated model.
      options: options of the kind; the common options are resolved.
      field: names the options in error messages.
      operations: the parsed option `preprocess`.
      source: the split that is scored.
      train_source: training split of the run.
      images: shape of one preprocessed image, uint8 [1, H, W, C]; with views a tuple of
        [1, V, H, W, C], one per size. Of sequences int32 [1, S].
    """

    config: ml_collections.ConfigDict
    model: nn.Module
    options: dict[str, Any]
    field: FieldName
    operations: Augmentation
    source: Source
    train_source: Source
    images: jax.ShapeDtypeStruct | tuple[jax.ShapeDtypeStruct, ...]


class Experiment(Protocol):
    """The methods of `training.experiment.Experiment` that evaluations call."""

    def evaluation_step(self, make: Callable, *options: Any) -> Callable:
        """`make(config, model, *options)`, a `(variables, batch) → predictions`, jitted.

        Compiled programs are shared by `make` and `options`: `make` is a module-level function.
        """

    def eval_batches(
        self, images: Images, views: tuple[Callable, ...] = ()
    ) -> Iterable[dict[str, Any]]:
        """Padded batches of a whole split, on the devices."""


class Kind(NamedTuple):
    """A kind of evaluation.

    Attributes:
      options: the options besides `COMMON`, by name.
      suits: whether the kind can score models of a task.
      check: check the options against model and data before the first step. Returns the resolved
        options and the training split of a probe (`None` for other kinds). Raises `InputError`.
      make: return a function from the variables of the model to the scores. It compiles once.
    """

    options: dict[str, Option]
    suits: Callable[[Task], bool]
    check: Callable[[Request], tuple[dict[str, Any], Source | None]]
    make: Callable[[Experiment, Evaluation], Callable[[Any], Scores]]
