"""What the registry knows of one architecture."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax


class Entry(NamedTuple):
    """A named variant of a Linen module.

    Attributes:
      module: the Linen module class.
      fields: the field values that make this variant; every other field keeps the class's default.
      year: year of first publication.
      paper: authors, title and where to find it.
      image_size: height and width of the input that the publication uses.
      channels: input channels of the publication.
      inputs: for a model that takes more or other than one image: batch size → one valid input,
        the positional arguments after `variables`.
      task: how the model is fed and scored, a key of `cv_jax.tasks.TASKS`.
    """

    module: Any
    fields: dict[str, Any]
    year: int
    paper: str
    image_size: tuple[int, int] = (224, 224)
    channels: int = 3
    inputs: Callable[[int], tuple[jax.Array, ...]] | None = None
    task: str = "classification"
