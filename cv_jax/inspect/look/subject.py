"""What an analysis gets and what it returns."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np
from matplotlib.figure import Figure


class DoesNotApply(Exception):
    """The analysis does not apply to this network; the message is the reason, one line."""


class Subject(NamedTuple):
    """A trained network, and images to show it.

    Attributes:
      model: the module.
      variables: its trained variables.
      images: float32 [B, H, W, C], normalised, the model's input.
      pixels: uint8 [B, H, W, C], the same images to draw.
      names: name of each image.
      labels: int [B], or `None` without labels.
      class_names: names of the classes; () without names.
      others: further inputs of the model for these images, such as the noise of a masked
        autoencoder.
      to_pixels: images normalised as those of the model → the same on the scale 0…255.
      initial: () → newly initialised variables of the model.
      checkpoints: () → step and variables of every checkpoint; `None` for a file of weights.
      companion: module and variables of a second network that takes the same images; `None` without
        one.
      split: () → batches of a whole split, each a dict with `inputs` (all inputs of the model, the
        normalised images first), `pixels` and `label`; `None` if the images are files.
      options: `class` and `feature` of saliency maps, `projections`, and under the name of a
        saliency method its options.
    """

    model: nn.Module
    variables: Mapping[str, Any]
    images: jax.Array
    pixels: np.ndarray
    names: tuple[str, ...]
    labels: np.ndarray | None
    class_names: tuple[str, ...]
    others: tuple[jax.Array, ...] = ()
    to_pixels: Callable[[np.ndarray], np.ndarray] | None = None
    initial: Callable[[], Mapping[str, Any]] | None = None
    checkpoints: Callable[[], Iterator[tuple[int, Mapping[str, Any]]]] | None = None
    companion: tuple[nn.Module, Mapping[str, Any]] | None = None
    split: Callable[[], Iterator[dict[str, Any]]] | None = None
    options: Mapping[str, Any] = {}

    def class_name(self, index: int) -> str:
        """Return the name of a class; its number without names."""
        return self.class_names[index] if index < len(self.class_names) else str(index)

    def require_classes(self) -> int:
        """Return the number of classes.

        Raises:
          DoesNotApply: the model is not a classifier.
        """
        classes = getattr(self.model, "num_classes", 0)
        if not classes:
            raise DoesNotApply(f"{type(self.model).__name__} is not a classifier")
        return classes


class Finding(NamedTuple):
    """The result of an analysis.

    Attributes:
      name: stem of the files.
      text: one sentence with the number that the picture illustrates.
      figure: the picture; `None` for numbers without a picture.
      rows: the numbers, one dict for each line of the CSV file, with equal keys.
    """

    name: str
    text: str
    figure: Figure | None
    rows: list[dict[str, Any]]
