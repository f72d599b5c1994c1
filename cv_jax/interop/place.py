"""Weights as ours from wherever they are: our own file, another project's, a folder, the Hub."""

from collections.abc import Callable
from typing import Any

from cv_jax import models
from cv_jax.errors import InputError
from cv_jax.interop import foreign, saved, weights
from cv_jax.interop.saved import Saved
from cv_jax.interop.target import flatten, size_of, trained_with

ImageSize = tuple[int, int] | None


def read(place: str, report: Callable[[str], None]) -> Saved:
    """Weights that say of themselves what they are.

    Args:
      place: one of our files, a folder in the Hub's layout, or `hf-hub:OWNER/NAME[@REVISION]`.
      report: called with one sentence for each thing that was not taken over as it was.

    Raises:
      InputError: there is nothing, it cannot be read, or nothing says what it is.
    """
    found = foreign.read(place)
    if saved.METADATA in found.metadata:
        return saved.parse(found.state_dict, found.metadata, place)
    if not found.architecture:
        raise InputError(
            f"{place} was not written by cv_jax, and nothing in it names its model; make a file "
            f"of ours with `python -m cv_jax convert {place} …`"
        )
    return from_foreign(found, place, report)


def from_foreign(
    found: foreign.Foreign,
    place: str,
    report: Callable[[str], None],
    *,
    model: str | None = None,
    source: str | None = None,
    fields: dict[str, Any] | None = None,
    image_size: ImageSize = None,
    num_classes: int | None = None,
    channels: int | None = None,
) -> Saved:
    """The weights of another project as ours.

    Args:
      found: what was read at `place`.
      place: for messages, and for `Saved.origin`.
      report: called with one sentence for each thing that was not taken over as it was.
      model: the registry's name; by default what `config.json` names.
      source: whose layout the weights have; by default timm's, where there is a `config.json`.
      fields: further fields of the model.
      image_size: (height, width) that the model shall take; by default as published.
      num_classes: of another classifier.
      channels: of other images.

    Raises:
      InputError: nothing says what they are, or they do not fit.
    """
    source = source or ("timm" if found.architecture else None)
    if source is None:
        choice = "|".join(weights.SOURCES)
        raise InputError(f"nothing in {place} says whose layout it has: add --source {choice}")
    if model is None and not found.architecture:
        raise InputError(f"nothing in {place} names the model: add --model NAME")
    known = {}
    if model is None:
        model, known = weights.reference(source, found.architecture)
    fields = {**known, **(fields or {})}
    size = image_size or found.image_size
    variables = weights.load(
        model,
        source,
        found.state_dict,
        image_size=size,
        num_classes=num_classes,
        channels=channels,
        report=report,
        **fields,
    )
    return as_saved(variables, model, fields, size, source, place, found.preprocessing)


def as_saved(
    variables: dict[str, Any],
    model: str,
    fields: dict[str, Any],
    image_size: ImageSize,
    source: str,
    origin: str,
    preprocessing: dict[str, Any],
    channels: int | None = None,
) -> Saved:
    """Variables with what describes them.

    Classes and input channels are read from the arrays; of nets whose first filter or classifier
    has a name of its own, they are those in `fields` and `channels`.
    """
    classes, read = trained_with(flatten(variables))
    channels = read or channels
    if "num_classes" in models.fields(model) and (classes or "num_classes" not in fields):
        fields = {**fields, "num_classes": classes}
    return Saved(
        variables,
        model,
        fields,
        size_of(model, image_size),
        channels,
        source,
        origin,
        _for_channels(preprocessing, channels),
    )


def _for_channels(preprocessing: dict[str, Any], channels: int | None) -> dict[str, Any]:
    """With other input channels, each is normalised by the average over the old, as timm does."""
    result = dict(preprocessing)
    for name in {"mean", "std"} & result.keys():
        values = result[name]
        if len(values) != channels:
            result[name] = [sum(values) / len(values)] * channels
    if "test_input_size" in result:
        result["test_input_size"] = [channels, *result["test_input_size"][1:]]
    return result
