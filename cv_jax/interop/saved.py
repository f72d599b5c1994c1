"""cv_jax weight files: one .safetensors file with a description of its model.

Arrays are named by their paths ("params/layer1_0/conv1/kernel", "batch_stats/bn1/mean"). The
metadata key "cv_jax" holds one JSON object with the other attributes of `Saved`. Files of format 1
have no `class_names` and no `evaluation`.
"""

import json
import logging
import os
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

import cv_jax
from cv_jax.config.values import tuples
from cv_jax.errors import InputError, one_line
from cv_jax.interop import preprocessing
from cv_jax.interop.disk import read_safetensors, write_safetensors
from cv_jax.interop.resize import Trained
from cv_jax.interop.target import Target, adapt, flatten, unflatten
from cv_jax.paths import parse_json

FORMAT = 2
METADATA = "cv_jax"  # metadata key of the description
# Keys of `Saved.evaluation`.
EVALUATION = ("eval_preprocess", "eval.average", "eval.max_length", "loss.name", "data.target")

_log = logging.getLogger(__name__)


class Saved(NamedTuple):
    """Weights with the description needed to build the model and to preprocess its images.

    Attributes:
      variables: `{"params": …}` and further collections of the model, numpy arrays.
      model: the registry's name.
      fields: fields that differ from the registry's defaults, and `num_classes`.
      image_size: (height, width) of the model's input.
      channels: input channels.
      source: original layout of the weights, one of `interop.SOURCES`; "" if trained with cv_jax.
      origin: original place of the weights: a path, or "hf-hub:…".
      preprocessing: `mean` and `std` by channel, of pixels in 0…1; and what the source publishes
        besides: crop_pct, interpolation, …
      version: version of cv_jax that wrote the file.
      class_names: names of the classes in the order of the classifier; () if unknown.
      evaluation: values of the config fields in `EVALUATION`: all that prediction needs of a
        config. A field without a value has its default; without `eval_preprocess` the
        preprocessing is unknown.
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
    class_names: tuple[str, ...] = ()
    evaluation: dict[str, Any] = {}


def write(path: str | os.PathLike, saved: Saved) -> None:
    """Write the file; an existing file is replaced atomically.

    Raises:
      InputError: the file cannot be written, or safetensors is not installed.
    """
    facts = {name: value for name, value in saved._asdict().items() if name != "variables"}
    metadata = {METADATA: json.dumps({"format": FORMAT, **facts})}
    write_safetensors(pathlib.Path(path), flatten(saved.variables), metadata)


def read(path: str | os.PathLike) -> Saved:
    """Read a file written by `write`.

    Raises:
      InputError: the file does not exist, is damaged or was not written by cv_jax, or safetensors
        is not installed.
    """
    return parse(*read_safetensors(pathlib.Path(path)), path)


def parse(
    arrays: dict[str, np.ndarray], metadata: dict[str, str], path: str | os.PathLike
) -> Saved:
    """Return the content of a cv_jax file from its arrays and metadata; `path` is for messages.

    Raises:
      InputError: the file was not written by cv_jax.
    """
    if METADATA not in metadata:
        raise InputError(
            f"{path} was not written by cv_jax; convert it with `python -m cv_jax convert {path} …`"
        )
    try:
        facts = parse_json(metadata[METADATA])
        written = facts.pop("format")
        if written > FORMAT:
            raise InputError(
                f"{path} was written by a newer cv_jax ({facts['version']}); update cv_jax"
            )
        facts["image_size"], facts["fields"] = tuple(facts["image_size"]), tuples(facts["fields"])
        facts["class_names"] = tuple(facts.get("class_names", ()))
        if written == 1 and facts["source"]:
            published = preprocessing.published(facts["preprocessing"], facts["image_size"])
            facts["evaluation"] = published
        found = Saved(unflatten(arrays), **facts)
        _check_types(found)
        # A file decides its preprocessing, and no other field of a config.
        known = {key: x for key, x in found.evaluation.items() if key in EVALUATION}
        return found._replace(evaluation=known)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(
            f"{path}: its record of cv_jax is damaged ({type(error).__name__}: {one_line(error)})"
        ) from None


def _check_types(saved: Saved) -> None:
    """Raise a `TypeError` for a value of another type than `Saved` states."""
    types = {name: type(x) for name, x in Saved._field_defaults.items()}
    types |= {"model": str, "fields": dict, "channels": int, "image_size": tuple}
    for name, type_ in types.items():
        if not isinstance(getattr(saved, name), type_):
            raise TypeError(f"{name}={getattr(saved, name)!r} is no {type_.__name__}")
    if len(saved.image_size) != 2 or not all(isinstance(n, int) for n in saved.image_size):
        raise TypeError(f"image_size={saved.image_size!r} is not height and width")
    if not all(isinstance(name, str) for name in saved.class_names):
        raise TypeError("a class name is no text")


def fit(
    saved: Saved,
    model_name: str,
    *,
    image_size: int | tuple[int, int] | None = None,
    in_channels: int | None = None,
    seed: int = 0,
    report: Callable[[str], None] = _log.warning,
    **fields: Any,
) -> dict[str, Any]:
    """Return variables fitted to another model's classes, input channels and sizes.

    Args:
      saved: the weights.
      model_name: the registry's name of the target model.
      image_size: side or (height, width) of its input; default: the model's own.
      in_channels: its input channels; default: as published.
      seed: for a new classifier, if the old one does not fit.
      report: called with one sentence for each change to the weights.
      **fields: fields of the model, `num_classes` among them.

    Raises:
      InputError: the arrays do not fit the model; lists all differences.
    """
    if saved.model != model_name:
        report(f"weights of {saved.model} are used for {model_name}")
    target = Target(model_name, image_size=image_size, in_channels=in_channels, **fields)
    trained = Trained.of(saved.model, saved.image_size, saved.fields)
    arrays, notes = adapt(flatten(saved.variables), target, seed, saved.source, trained)
    for note in notes:
        report(note)
    return unflatten(arrays)
