"""The registry: every architecture by name.

    model = models.create("vit_b16", num_classes=10, image_size=32)
    variables = model.init(jax.random.key(0), image)
    logits, features = model.apply(variables, image, train=False)

`image` is float [B, H, W, C], normalised. `features` is an `OrderedDict` of named intermediates in
forward order; the last one is the input of the head, `"pre_logits"`. This package depends only on
jax, flax, numpy and `cv_jax.errors`, so its files can be copied to another project.

A new architecture needs one file with a `MODELS` dict and one line in the `MODELS` below. Its
`Entry` states what training needs to know.
"""

import dataclasses
import fnmatch
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from cv_jax.errors import did_you_mean
from cv_jax.models import (
    airbench,
    alexnet,
    deit,
    image_transformer,
    lenet,
    linear,
    mae,
    mlp,
    resnet,
    swin,
    transformer,
    vgg,
    vit,
)
from cv_jax.models.count import count_multiply_adds
from cv_jax.models.entry import Entry

# In chronological order.
MODELS: dict[str, Entry] = {
    **linear.MODELS,
    **mlp.MODELS,
    **lenet.MODELS,
    **alexnet.MODELS,
    **vgg.MODELS,
    **resnet.MODELS,
    **transformer.MODELS,
    **vit.MODELS,
    **image_transformer.MODELS,
    **deit.MODELS,
    **mae.MODELS,
    **swin.MODELS,
    **airbench.MODELS,
}


class Card(NamedTuple):
    """Facts of one architecture at its published input size, for `python -m cv_jax models`.

    Attributes:
      name: registry name.
      year: year of first publication.
      paper: authors, title and where to find it.
      inputs: the shape of each input without the batch: `((224, 224, 3),)` for one image.
      num_classes: classes of the head; 0 for a model without a classifier.
      parameters: number of trainable scalars.
      multiply_adds: multiply-adds in the forward pass of one example.
    """

    name: str
    year: int
    paper: str
    inputs: tuple[tuple[int, ...], ...]
    num_classes: int
    parameters: int
    multiply_adds: int


def _entry(name: str) -> Entry:
    if name not in MODELS:
        hint = did_you_mean(name, MODELS, count=3) or "; see list_models()"
        raise ValueError(f"unknown model {name!r}{hint}")
    return MODELS[name]


def list_models(pattern: str = "*") -> list[str]:
    """Return the names that match a shell pattern such as `"vit_*"`, in chronological order."""
    return [name for name in MODELS if fnmatch.fnmatchcase(name, pattern)]


def fields(name: str) -> dict[str, Any]:
    """Return every field of a model with its default, as a plain dict.

    Raises:
      ValueError: no model has this name.
    """
    entry = _entry(name)
    defaults = {
        field.name: (
            field.default_factory() if field.default is dataclasses.MISSING else field.default
        )
        for field in dataclasses.fields(entry.module)
        if field.name not in ("name", "parent")
    }
    return {**defaults, **entry.fields}


def create(name: str, **overrides: Any) -> nn.Module:
    """Return the module of a model, with some of its fields replaced.

    Raises:
      ValueError: no model has this name, or the model has no such field.
    """
    allowed = fields(name)
    for key in overrides:
        if key not in allowed:
            hint = did_you_mean(key, allowed) or f"; it has {', '.join(allowed)}"
            raise ValueError(f"model {name!r} has no field {key!r}{hint}")
    return _entry(name).module(**{**allowed, **overrides})


def dummy_inputs(name: str, batch: int = 1) -> tuple[jax.Array, ...]:
    """Return valid inputs of the published size: the positional arguments after `variables`.

    Raises:
      ValueError: no model has this name.
    """
    entry = _entry(name)
    if entry.inputs is not None:
        return entry.inputs(batch)
    return (jnp.zeros((batch, *entry.image_size, entry.channels), jnp.float32),)


def card(name: str) -> Card:
    """Return the facts of a model from one trace of `init`; nothing is computed or allocated.

    `init` contains the forward pass, and no initialiser multiplies matrices, so the trace gives
    both parameters and multiply-adds.

    Raises:
      ValueError: no model has this name.
    """
    entry = _entry(name)
    model = create(name)
    inputs = jax.eval_shape(lambda: dummy_inputs(name))
    multiply_adds, variables = count_multiply_adds(
        lambda *x: model.init(jax.random.key(0), *x), *inputs
    )
    return Card(
        name=name,
        year=entry.year,
        paper=entry.paper,
        inputs=tuple(x.shape[1:] for x in inputs),
        num_classes=getattr(model, "num_classes", 0),
        parameters=sum(leaf.size for leaf in jax.tree.leaves(variables["params"])),
        multiply_adds=multiply_adds,
    )
