"""The teacher model of knowledge distillation: `config.distill.teacher`.

The teacher gets the student's augmented and mixed images, in its own normalisation and without
dropout. It is not part of the train state or of a checkpoint. The run records the digest of its
weights, and a restart with another teacher is an error.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections

from cv_jax import models, tasks
from cv_jax.errors import InputError, printable
from cv_jax.interop import pretrained, saved
from cv_jax.interop.classes import ordered
from cv_jax.interop.target import flatten, trained_with


class Teacher(NamedTuple):
    """A teacher model.

    Attributes:
      variables: variables of the model, on the host.
      apply: `(variables, images in the student's normalisation) → logits [B, classes]`, pure.
      fingerprint: identity of the teacher.
    """

    variables: Any
    apply: Callable[[Any, jax.Array], jax.Array]
    fingerprint: dict[str, Any]


def read_teacher(
    config: ml_collections.ConfigDict,
    num_classes: int,
    image_shape: tuple[int, int, int],
    classes: tuple[str, ...] = (),
) -> Teacher:
    """Read the teacher of `config.distill.teacher`: a run directory or converted weights.

    A teacher with other image sizes, window sizes or channels is adapted; each change is printed.

    Args:
      config: the student's config.
      num_classes: classes of the dataset.
      image_shape: (height, width, channels) of the images.
      classes: names of the dataset's classes; () if unknown. A teacher with these names in another
        order is reordered.

    Raises:
      InputError: the student is not a classifier, or the teacher is missing, is not a classifier of
        these classes, or does not fit; the message is one line.
    """
    place = config.distill.teacher
    if tasks.task_name(config) != "classification":
        raise InputError(f"config.distill.teacher: {config.model.name} is not a classifier")

    def report(line):
        print(printable(f"{place}: {line}"))

    try:
        weights = pretrained.read(place, report)
        if weights.model not in models.MODELS:
            raise InputError(f"{place} has the unknown model {weights.model}")
        _check_classes(weights, num_classes)
        weights = ordered(weights, classes, report)
        size = tuple(image_shape[:2])
        fields = dict(weights.fields)
        variables = saved.fit(
            weights,
            weights.model,
            image_size=size,
            in_channels=image_shape[-1],
            report=report,
            **fields,
        )
        if "image_size" in models.fields(weights.model):
            fields["image_size"] = size
        model = models.create(weights.model, **fields)
    except (InputError, ValueError) as error:
        raise InputError(f"config.distill.teacher: {str(error).splitlines()[0]}") from None

    mean = weights.preprocessing.get("mean", config.data.mean)
    std = weights.preprocessing.get("std", config.data.std)
    own = tuple(mean), tuple(std)
    students = tuple(config.data.mean), tuple(config.data.std)

    def apply(variables, images):
        if own != students:
            before, after = (tuple(map(jnp.asarray, pair)) for pair in (students, own))
            images = (images * before[1] + before[0] - after[0]) / after[1]
        return model.apply(variables, images, train=False)[0]

    fingerprint = {
        "model": weights.model,
        "sha256": pretrained.digest(variables),
        "mean": list(own[0]),
        "std": list(own[1]),
    }
    return Teacher(variables, apply, fingerprint)


def _check_classes(weights: saved.Saved, num_classes: int) -> None:
    classes, _ = trained_with(flatten(weights.variables))
    if "num_classes" not in models.fields(weights.model):
        raise InputError(f"{weights.model} is not a classifier")
    classes = classes or weights.fields["num_classes"]
    if classes != num_classes:
        raise InputError(f"the teacher has {classes} classes, the dataset has {num_classes}")
