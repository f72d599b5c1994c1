"""Registry entry of one architecture, and the facts that training needs about it."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax


class DataInit(NamedTuple):
    """Initial values that depend on training images.

    Attributes:
      examples: number of images; a smaller split gives all it has.
      apply: `(variables, images float32 [N, H, W, C]) → variables`, pure. Images are normalised and
        not augmented, in the order of the split.
    """

    examples: int
    apply: Callable[[dict, jax.Array], dict]


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
      layer_order: regular expressions of parameter names from input to output, for layer-wise
        learning rates; `None` if the order is unknown. Groups are numbers of a stage or block:
        names with equal numbers are one layer, and larger numbers come later. A name whose group is
        absent, or whose numbers have no kernel, belongs to the layer before. Names that no
        expression matches are the last layer.
      first_layers: regular expressions of the layers that read the input, or constants such as
        coordinates. Muon leaves their kernels to AdamW.
      last_layers: the same for layers that write the output. Muon leaves their kernels to AdamW,
        and adaptive clipping does not clip them.
      fused: name of a layer → number of matrices side by side in its kernel, or a function from the
        model to this mapping. Muon makes each of them orthogonal on its own.
      undecayed: regular expression of the ends of parameter names without weight decay in the
        reference code; it makes the default of `optim.rules`. `None`: all parameters are kernels,
        biases and scales, and some recipes decay all of them.
      tensor_axes: regular expression of the end of a parameter name → mesh axes of the last
        dimensions, for tensor parallelism. Empty: the model cannot be split over `mesh.model`.
      converters: module class of another model → `(params, model, params of the other model, other
        model) → params of the other model` with the weights of this model where they fit.
      data_init: replaces drawn variables by some that depend on training images; see `DataInit`.
    """

    module: Any
    fields: dict[str, Any]
    year: int
    paper: str
    image_size: tuple[int, int] = (224, 224)
    channels: int = 3
    inputs: Callable[[int], tuple[jax.Array, ...]] | None = None
    task: str = "classification"
    layer_order: tuple[str, ...] | None = None
    first_layers: tuple[str, ...] = ()
    last_layers: tuple[str, ...] = ("head",)
    fused: Mapping[str, int] | Callable[[Any], Mapping[str, int]] = {}
    undecayed: str | None = None
    tensor_axes: Mapping[str, tuple[str | None, ...]] = {}
    converters: Mapping[type, Callable[..., dict]] = {}
    data_init: DataInit | None = None
