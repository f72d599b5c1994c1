"""Registry entry of one architecture, and the facts that training needs about it."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax


class LayerOrder(NamedTuple):
    """Order of a model's layers from input to output, for layer-wise learning-rate decay.

    Layer 0 holds the modules of `first`, the blocks follow in the order of their stages, and the
    last layer holds all other parameters.

    Attributes:
      first: top-level modules and parameters of layer 0.
      block: regular expression of the parameter names in blocks. Group `block` is the index of the
        block in its stage; a name without this group belongs to the block before the stage. Group
        `stage` is the number of the stage; a pattern without this group has one stage.
      stages: model field with the number of blocks, an int or one int per stage.
      first_stage: number of the first stage in the names.
    """

    first: tuple[str, ...]
    block: str
    stages: str
    first_stage: int = 0


class Entry(NamedTuple):
    """A named variant of a Linen module.

    Parameter names are paths in the `params` collection, such as "blocks_0/attn/qkv/kernel".

    Attributes:
      module: the Linen module class.
      fields: the field values of this variant; every other field keeps the class's default.
      year: year of first publication.
      paper: authors, title and where to find it.
      image_size: height and width of the input in the publication.
      channels: input channels of the publication.
      inputs: for a model with other inputs than one image: batch size → one valid input, the
        positional arguments after `variables`.
      task: how the model is fed and scored, a key of `cv_jax.tasks.TASKS`.
      layer_order: layers for layer-wise learning-rate decay; `None` if the model has no order.
      end_layers: top-level modules that read the input or write the output. Muon leaves their
        kernels to AdamW.
      fused: name of a layer → number of matrices side by side in its kernel. Muon makes each of
        them orthogonal on its own.
      tensor_axes: regular expression of the end of a parameter name → mesh axes of the last
        dimensions, for tensor parallelism. Empty: the model cannot be split over `mesh.model`.
      converters: module class of another model → `(params, model, params of the other model, other
        model) → params of the other model` with the weights of this model where they fit.
    """

    module: Any
    fields: dict[str, Any]
    year: int
    paper: str
    image_size: tuple[int, int] = (224, 224)
    channels: int = 3
    inputs: Callable[[int], tuple[jax.Array, ...]] | None = None
    task: str = "classification"
    layer_order: LayerOrder | None = None
    end_layers: tuple[str, ...] = ("head",)
    fused: Mapping[str, int] = {}
    tensor_axes: Mapping[str, tuple[str | None, ...]] = {}
    converters: Mapping[type, Callable[..., dict]] = {}
