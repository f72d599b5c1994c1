"""Checks of shapes and counts before anything is computed; errors are one line."""

from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jax.sharding import Mesh

from cv_jax import augment, models, tasks
from cv_jax import config as configs
from cv_jax.augment import Augmentation
from cv_jax.augment.batch import augment_batch
from cv_jax.config.values import LARGEST
from cv_jax.data.source import Source, require_images
from cv_jax.devices import memory
from cv_jax.devices import mesh as meshes
from cv_jax.errors import InputError
from cv_jax.interop import pretrained
from cv_jax.models import precision
from cv_jax.tasks.batch import blank_batch


def check_examples(
    config: ml_collections.ConfigDict,
    source: Source,
    augmentation: Augmentation,
    workdir: Path | None = None,
) -> tuple[ml_collections.ConfigDict, Augmentation, tuple[int, ...]]:
    """Check that model and augmentation accept the examples of the training split.

    Args:
      config: the resolved config.
      source: the training split.
      augmentation: the parsed `config.augment`.
      workdir: the run directory, if it is known; see `pretrained.normalised`.

    Returns:
      `(config with the normalisation of the images, augmentation, shape of one example)`. Examples
      that are no images have neither.

    Raises:
      InputError: they do not, or a batch does not fit into memory.
    """
    name, wanted = config.model.name, tasks.reads(config)
    if source.kind != wanted:
        hint = "" if wanted == "image" else "; those of copy, reverse and sort are sequences"
        raise InputError(
            f"config.model.name: {name} reads {wanted}s; the examples of {source.name} are "
            f"{source.kind}s{hint}"
        )
    if source.kind == "image":
        shape = _image_shape(config, source, augmentation)
        config = pretrained.normalised(config, shape[-1], workdir)
        _check_channels(config, shape[-1])
        memory.check_batch_memory(config, shape, augmentation.stream.views)
        _try_augmentation(config, augmentation, shape)
    else:
        if config.augment:
            require_images(source, f"config.augment={config.augment}")
        shape, augmentation = source.example(0)[0].shape, augment.parse("")
        config = configs.with_normalisation(config)
        memory.check_batch_memory(config, shape, augmentation.stream.views)
    return config, augmentation, shape


def _image_shape(
    config: ml_collections.ConfigDict, source: Source, augmentation: Augmentation
) -> tuple[int, int, int]:
    """Return the image shape after the host operations, which must be `config.image_size`."""
    image = augment.apply_host(augmentation.fixed, None, source.example(0)[0])
    image = augment.apply_host(augmentation.host, np.random.default_rng(0), image)
    size = config.image_size
    stated = (size, size) if isinstance(size, int) else tuple(size)
    if image.shape[:2] != stated:
        raise InputError(
            f"config.augment makes images of {image.shape[0]}x{image.shape[1]}, config.image_size "
            f"is {stated[0]}x{stated[1]}: make them equal"
        )
    return image.shape


def _check_channels(config: ml_collections.ConfigDict, channels: int) -> None:
    for name in ("mean", "std"):
        values = config.data[name]
        if len(values) not in (1, channels):
            raise InputError(
                f"config.data.{name}={values} has {len(values)} values; images have {channels} "
                "channels"
            )


def _try_augmentation(
    config: ml_collections.ConfigDict,
    augmentation: Augmentation,
    image_shape: tuple[int, int, int],
) -> None:
    """Check the device operations on the shape of a batch."""
    shape = (config.batch_size, *image_shape)
    batch = {
        "image": jax.ShapeDtypeStruct(shape, jnp.uint8),
        **{
            name: jax.ShapeDtypeStruct(shape[:1], jnp.int32)
            for name in ("label", "example", "epoch")
        },
    }

    def augmented(batch):
        return augment_batch(config, augmentation, 10, jnp.int32(0), batch)

    try:
        jax.eval_shape(augmented, batch)
    except (ValueError, TypeError) as error:
        raise InputError(f"config.augment: {str(error).splitlines()[0]}") from None


def check_target(config: ml_collections.ConfigDict, model: nn.Module, source: Source) -> None:
    """Check that a model can learn the labels of its training split.

    Raises:
      InputError: the labels are sequences, and the model writes none.
    """
    if source.length is not None and tasks.make_task(config, model).written is None:
        raise InputError(
            f"config.data.target={config.data.target} is a sequence of classes; "
            f"{config.model.name} writes no sequence, image_transformer_ti does"
        )


def make_model(
    config: ml_collections.ConfigDict,
    num_classes: int,
    input_shape: tuple[int, ...],
    soft_labels: bool,
) -> tuple[nn.Module, Any]:
    """Create the model, and check it with its task on the shape of one example.

    Returns:
      `(model, shapes of its parameters in the train state)`.

    Raises:
      InputError: the model does not accept its fields, the examples or the classes.
    """
    name = config.model.name
    try:
        model = models.create(name, **pretrained.model_fields(config, num_classes))
        task = tasks.make_task(config, model)

        def score():
            batch = blank_batch(input_shape, num_classes if soft_labels else 0)
            inputs = task.inputs(batch, {"mask": jax.random.key(0)})
            stored = precision.stored(model, config.optim.master_weights)
            output, variables = stored.init_with_output(jax.random.key(0), *inputs, train=False)
            return task.score(output, batch)[0], variables["params"]

        loss, params = jax.eval_shape(score)
    except (ValueError, TypeError, ArithmeticError) as error:
        raise InputError(f"config.model: {str(error).splitlines()[0]}") from None  # JAX adds lines
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if not leaf.size:
            empty = jax.tree_util.keystr(path, simple=True, separator="/")
            raise InputError(f"config.model: parameter {empty} of shape {leaf.shape} is empty")
    if task.classes is not None and task.classes < num_classes:
        raise InputError(
            f"config.model: {name} supports {task.classes} classes, {config.data.name} has "
            f"{num_classes}; set config.model.vocab_size={num_classes + 3} or more"
        )
    if loss.shape != (1,):
        raise InputError(f"config.model.name: {name} does not map an example to class scores")
    return model, params


def check_counts(
    config: ml_collections.ConfigDict, total_steps: int, examples: int, views: int
) -> None:
    """Check that an int32 can count the examples between two metric lines."""
    every = configs.steps_of(config, "log.every", examples, total_steps) or 1
    count = min(every, total_steps) * config.batch_size * views
    if count > LARGEST:
        raise InputError(
            f"config.log.every: {count:,} examples between two metric lines; at most {LARGEST:,} "
            "can be counted"
        )


def check_batches(config: ml_collections.ConfigDict, mesh: Mesh) -> None:
    """Check that batches and micro-batches divide evenly over the devices."""
    meshes.check_batch("config.batch_size", config.batch_size, mesh)
    count = config.optim.accumulate_steps
    share = config.batch_size // mesh.shape["data"]
    if share % count:
        raise InputError(
            f"config.optim.accumulate_steps={count} does not divide the {share} examples of "
            f"a batch on each of {mesh.shape['data']} devices"
        )
    meshes.check_batch("config.eval.batch_size", config.eval.batch_size, mesh)
