"""Our own file of weights: one .safetensors file that says what it is.

Arrays are named by their paths ("params/layer1_0/conv1/kernel", "batch_stats/bn1/mean"). The
metadata holds under "cv_jax" one JSON object with the other attributes of `Saved`.
"""

import json
import logging
import os
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

import cv_jax
from cv_jax.errors import InputError
from cv_jax.interop.disk import read_safetensors, write_safetensors
from cv_jax.interop.target import Target, adapt, flatten, unflatten

FORMAT = 1
METADATA = "cv_jax"  # the key under which a .safetensors file of ours describes itself

_log = logging.getLogger(__name__)


class Saved(NamedTuple):
    """A model's weights, with what is needed to build the model and to feed it.

    Attributes:
      variables: `{"params": …}` and what else the model has, numpy arrays.
      model: the registry's name.
      fields: fields that differ from the registry's defaults, and `num_classes`.
      image_size: (height, width) that the model was made for.
      channels: input channels.
      source: whose layout the weights came in, one of `interop.SOURCES`; "" if trained here.
      origin: where they came from: a path, or "hf-hub:…".
      preprocessing: what the source says of its images: mean, std, crop_pct, interpolation, …
      version: of cv_jax, which wrote the file.
    """

    variables: dict[str, Any]
    model: str
    fields: dict[str, Any]
    image_size: tuple[int, int]
    channels: int
    source: str = ""
    origin: str = ""
    preprocessing: dict[str, Any] = {}
    version: str = cv_jax.__version__


def write(path: str | os.PathLike, saved: Saved) -> None:
    """Writes the file; one of that name is replaced at once, by the whole new one.

    Raises:
      InputError: the file cannot be written, or safetensors is not installed.
    """
    facts = {name: value for name, value in saved._asdict().items() if name != "variables"}
    metadata = {METADATA: json.dumps({"format": FORMAT, **facts})}
    write_safetensors(pathlib.Path(path), flatten(saved.variables), metadata)


def read(path: str | os.PathLike) -> Saved:
    """Reads a file that `write` wrote.

    Raises:
      InputError: there is no such file, it is damaged or none of ours, or safetensors is not
        installed.
    """
    return parse(*read_safetensors(pathlib.Path(path)), path)


def parse(
    arrays: dict[str, np.ndarray], metadata: dict[str, str], path: str | os.PathLike
) -> Saved:
    """The content of a file of ours, once read; `path` is for the message.

    Raises:
      InputError: the file is none of ours.
    """
    if METADATA not in metadata:
        raise InputError(
            f"{path} was not written by cv_jax; make it with `python -m cv_jax convert {path} …`"
        )
    facts = json.loads(metadata[METADATA])
    if facts.pop("format") != FORMAT:
        raise InputError(f"{path} was written by a newer cv_jax, {facts['version']}: update")
    facts["image_size"] = tuple(facts["image_size"])
    # JSON knows no tuples, the models' fields no lists.
    facts["fields"] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in facts["fields"].items()
    }
    return Saved(unflatten(arrays), **facts)


def fit(
    saved: Saved,
    model_name: str,
    *,
    image_size: int | tuple[int, int] | None = None,
    channels: int | None = None,
    seed: int = 0,
    report: Callable[[str], None] = _log.warning,
    **fields: Any,
) -> dict[str, Any]:
    """The variables to start a model from, fitted to its classes and input channels.

    Args:
      saved: the weights.
      model_name: the registry's name of the model to start.
      image_size: side or (height, width) of its images; by default the model's own.
      channels: its input channels; by default those of the publication.
      seed: of a classifier that does not fit and is initialised anew.
      report: called with one sentence for each thing that was not taken over as it was.
      **fields: fields of the model, `num_classes` among them.

    Raises:
      InputError: the arrays do not fit the model; all differences are listed.
    """
    if saved.model != model_name:
        report(f"weights of {saved.model} are taken for {model_name}")
    target = Target(model_name, image_size=image_size, channels=channels, **fields)
    arrays, notes = adapt(flatten(saved.variables), target, seed, trained_size=saved.image_size)
    for note in notes:
        report(note)
    return unflatten(arrays)
