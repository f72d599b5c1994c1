"""Checks that several kinds of evaluation share. Each raises an `InputError` of one line."""

from collections.abc import Callable
from typing import Any

import jax
from flax.errors import FlaxError

from cv_jax import tasks
from cv_jax.errors import InputError, one_line
from cv_jax.evaluation.kind import Request
from cv_jax.tasks.batch import blank_batch


def require_same_classes(request: Request) -> None:
    """Check that the scored split has the classes of the training split."""
    source, train_source, field = request.source, request.train_source, request.field
    if source.num_classes != train_source.num_classes:
        raise InputError(
            f"{field('dataset')}: {source.name} has {source.num_classes} classes, "
            f"{train_source.name} has {train_source.num_classes}"
        )
    named = source.classes is not None and train_source.classes is not None
    if named and source.classes != train_source.classes:
        raise InputError(
            f"{field('dataset')}: the classes of {source.name} differ from those of "
            f"{train_source.name}"
        )


def refuse_views(request: Request) -> None:
    """Check that the preprocessing has no test-time views."""
    if request.operations.test:
        raise InputError(
            f"{request.field('preprocess')}: only classifiers average views; remove them"
        )


def require_positive(request: Request, name: str) -> None:
    """Check that an option is `None` or a positive, finite number."""
    value = request.options[name]
    if value is not None and not 0 < value < float("inf"):
        raise InputError(f"{request.field(name)}: {value} is not positive and finite")


def has_stated_size(request: Request) -> bool:
    """Whether all images have the size `config.image_size`, for which the model is checked.

    Sequences have any length.
    """
    if request.source.kind == "sequence":
        return True
    return _sizes(request) == [_stated_size(request)]


def trace(request: Request, step: Callable) -> Any:
    """Trace `step(variables, batch)` on the shapes of the images, without computing.

    Returns:
      The shapes of the step's results.

    Raises:
      InputError: the model does not accept images of this size.
    """
    config, model = request.config, request.model
    stated = _stated_size(request)
    shape = (*stated, request.train_source.channels)
    task = tasks.make_task(config, model)

    def init():
        batch, key = blank_batch(shape), jax.random.key(0)
        inputs = task.inputs(batch, {"mask": key})
        return batch, model.init_with_output(key, *inputs, train=False)[1]

    batch, variables = jax.eval_shape(init)
    try:
        return jax.eval_shape(step, variables, {**batch, "image": request.images})
    except (ValueError, TypeError, FlaxError) as error:
        made = " and ".join(f"{height}x{width}" for height, width in _sizes(request))
        raise InputError(
            f"{request.field('preprocess')} makes images of {made}, config.image_size is "
            f"{stated[0]}x{stated[1]}, and {config.model.name} accepts no other size; change "
            f"one of them, or leave the preprocessing empty ({one_line(error, 120)})"
        ) from None


def _sizes(request: Request) -> list[tuple[int, int]]:
    return sorted({x.shape[-3:-1] for x in jax.tree.leaves(request.images)})


def _stated_size(request: Request) -> tuple[int, int]:
    size = request.config.image_size
    return (size, size) if isinstance(size, int) else tuple(size)
