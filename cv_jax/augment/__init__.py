"""Augmentation: one string, parsed into pure functions.

    parse("repeat(3)|resize(32)|pad_crop(4)|flip|erase(0.25)|mixup(0.2)")

The order of the stages is fixed: stream operations, host operations, test-time views, operations
that depend on the epoch, operations on single images, erasing on normalised images, mixing over the
batch. Arguments are Python literals;
the string is never evaluated.
"""

import inspect
import math
import typing
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from cv_jax.augment import colour, epochs, erase, geometry, host, mix, policies, stream, views
from cv_jax.config.terms import parse_terms
from cv_jax.config.values import check
from cv_jax.errors import InputError, did_you_mean

# The operations of each stage. Stages run in this order.
STAGES: dict[str, dict[str, Callable]] = {
    "stream": stream.OPERATIONS,
    "host": host.DETERMINISTIC | host.RANDOM,
    "test": views.OPERATIONS,
    "epoch": epochs.OPERATIONS,
    "image": geometry.OPERATIONS | colour.OPERATIONS | policies.OPERATIONS,
    "erase": erase.OPERATIONS,
    "batch": mix.OPERATIONS,
}
_ARTICLES = {
    "stream": "a stream",
    "host": "a host",
    "test": "a test-time",
    "epoch": "an epoch",
    "image": "an image",
    "erase": "an erasing",
    "batch": "a batch",
}


class Augmentation(NamedTuple):
    """The operations of one string, by stage and in order.

    Attributes:
      stream: repeats and views of each example.
      fixed: host operations before the first random one; their output can be cached.
      host: the remaining host operations, `(generator, uint8 image) → uint8 image`.
      test: test-time views; see `augment.views`.
      epoch: device operations, `(key of the example, epoch, image) → image`, as those of `image`.
      image: device operations, `(key, image) → image`, float32 [H, W, C] on the scale 0…255.
      erase: the same for normalised images, whose mean colour is 0.
      batch: mixing operations, `(key, images, labels) → (images, labels)`, labels [B, classes].
    """

    stream: stream.Stream
    fixed: tuple[Callable, ...]
    host: tuple[Callable, ...]
    test: tuple[views.View, ...]
    epoch: tuple[Callable, ...]
    image: tuple[Callable, ...]
    erase: tuple[Callable, ...]
    batch: tuple[Callable, ...]


def parse(
    string: str, field: str = "config.augment", image_size: int | tuple[int, int] | None = None
) -> Augmentation:
    """Reads `name(arguments)|name|…`.

    Args:
      string: the operations; may be empty.
      field: what to call the string in error messages.
      image_size: side, or (height, width), that images are resized to if no operation runs on the
        host; by default they stay as they are.

    Raises:
      InputError: an unknown operation, arguments it does not take, or a wrong order.
    """
    stages: dict[str, list] = {stage: [] for stage in STAGES}
    fixed: list[Callable] = []
    order = list(STAGES)
    last, last_text = order[0], ""
    for name, args, kwargs, text in parse_terms(string, field):
        stage = next((s for s in order if name in STAGES[s]), None)
        if stage is None:
            names = [n for operations in STAGES.values() for n in operations]
            hint = did_you_mean(name, names) or f"; allowed: {', '.join(names)}"
            raise InputError(f"{field}: unknown augmentation {name!r}{hint}")
        if order.index(stage) < order.index(last):
            raise InputError(
                f"{field}: {text} is {_ARTICLES[stage]} operation and must stand before {last_text}"
            )
        last, last_text = stage, text
        operation = _build(STAGES[stage][name], text, args, kwargs, field)
        if name in host.DETERMINISTIC and not stages["host"]:
            fixed.append(operation)
        else:
            stages[stage].append(operation)
    if image_size is not None and not fixed and not stages["host"]:
        text = f"resize({image_size})"
        fixed.append(_build(host.resize, text, [image_size], {}, "config.image_size"))
    if math.prod(view.count for view in stages["test"]) > views.MOST:
        raise InputError(f"{field}: more than {views.MOST} views of an image")
    whole = stream.Stream()
    for operation in stages.pop("stream"):
        whole = operation(whole)
    return Augmentation(whole, tuple(fixed), *map(tuple, stages.values()))


def apply_host(
    operations: tuple[Callable, ...], generator: np.random.Generator, example: np.ndarray
) -> np.ndarray:
    """Run host operations in order on one uint8 image [H, W, C].

    The image may be a `data.decode.Jpeg`. If the first operation crops it, only the window is
    decoded.
    """
    for operation in operations:
        example = operation(generator, example)
    return np.asarray(example)


def apply_images(operations: tuple[Callable, ...], keys: jax.Array, images: jax.Array) -> jax.Array:
    """Run device operations in order on float32 images [B, H, W, C], with one key [B] per image."""

    def one(key, example):
        for i, operation in enumerate(operations):
            example = operation(jax.random.fold_in(key, i), example)
        return example

    return jax.vmap(one)(keys, images) if operations else images


def apply_epoch(
    operations: tuple[Callable, ...], keys: jax.Array, epochs: jax.Array, images: jax.Array
) -> jax.Array:
    """Run operations that depend on the epoch in order on float32 images [B, H, W, C].

    Args:
      operations: see `augment.epochs`.
      keys: keys [B] of the examples.
      epochs: int32 [B], the epoch of each.
      images: the images.
    """

    def one(key, epoch, example):
        for i, operation in enumerate(operations):
            example = operation(jax.random.fold_in(key, i), epoch, example)
        return example

    return jax.vmap(one)(keys, epochs, images) if operations else images


def apply_batch(
    operations: tuple[Callable, ...], key: jax.Array, images: jax.Array, labels: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Run mixing operations in order on images [B, H, W, C] and labels [B, classes]."""
    for i, operation in enumerate(operations):
        images, labels = operation(jax.random.fold_in(key, i), images, labels)
    return images, labels


def _build(factory: Callable, text: str, args: list, kwargs: dict, field: str) -> Callable:
    signature = inspect.signature(factory)
    try:
        bound = signature.bind(*args, **kwargs).arguments
    except TypeError as error:
        takes = ", ".join(map(str, signature.parameters.values()))
        raise InputError(f"{field}: {text}: {error}; it takes ({takes})") from None
    hints = typing.get_type_hints(factory)
    typed = {key: check(value, hints[key], f"{field}: {text}") for key, value in bound.items()}
    for key, value in typed.items():
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, (int, float)) and not abs(number) <= host.SIDE:
                raise InputError(f"{field}: {text}: {key} is not in ±{host.SIDE}")
    try:
        return factory(**typed)
    except ValueError as error:
        raise InputError(f"{field}: {text}: {error}") from None
