"""Reads any weights as `Saved`: a cv_jax file, another library's file, a folder, or the Hub."""

from collections.abc import Callable
from typing import Any

from cv_jax import models
from cv_jax.errors import InputError
from cv_jax.interop import (
    foreign,
    hub_config,
    hugging_face_config,
    saved,
    timm_arguments,
    weights,
)
from cv_jax.interop.classes import names_of
from cv_jax.interop.preprocessing import published
from cv_jax.interop.resize import Trained
from cv_jax.interop.saved import Saved
from cv_jax.interop.target import flatten, size_of, trained_with
from cv_jax.interop.unwrap import unwrapped

ImageSize = tuple[int, int] | None


def read(place: str, report: Callable[[str], None]) -> Saved:
    """Read weights that name their model.

    Args:
      place: a cv_jax file, a folder in the Hub's layout, or `hf-hub:OWNER/NAME[@REVISION]`.
      report: called with one sentence for each change to the weights.

    Raises:
      InputError: the place does not exist, cannot be read, or does not name its model.
    """
    found = foreign.read(place)
    if saved.METADATA in found.metadata:
        return saved.parse(found.state_dict, found.metadata, place)
    if not found.config.keys() & {"architecture", "model_type"}:
        raise InputError(
            f"{place} was not written by cv_jax and does not name its model; convert it with "
            f"`python -m cv_jax convert {place} …`"
        )
    return from_foreign(found, place, report)


def from_foreign(
    found: foreign.Foreign,
    place: str,
    report: Callable[[str], None],
    *,
    model: str | None = None,
    source: str | None = None,
    fields: Callable[[str], dict[str, Any]] = lambda model: {},
    image_size: ImageSize = None,
    num_classes: int | None = None,
    channels: int | None = None,
    trained_size: ImageSize = None,
) -> Saved:
    """Convert the weights of another library.

    Args:
      found: the content of `place`.
      place: for messages and for `Saved.origin`.
      report: called with one sentence for each change to the weights.
      model: the registry's name; default: from `config.json`.
      source: layout of the weights; default: timm if there is a `config.json`.
      fields: `name of the model → further fields`.
      image_size: (height, width) of the model's input; default: as published.
      num_classes: classes of a new classifier; default: as in the weights.
      channels: input channels; default: as in the weights.
      trained_size: (height, width) of the images that the weights were trained on; default: from
        `config.json`, else square.

    Raises:
      InputError: model or source is unknown, the weights do not fit the model, or `config.json`
        describes another network.
    """
    facts = _describe(found, place)
    source = source or facts.source or ("timm" if facts.architecture else None)
    if source is None:
        choice = "|".join(weights.SOURCES)
        raise InputError(f"{place} does not name its layout; add --source {choice}")
    if model is None and not (facts.model or facts.architecture):
        raise InputError(f"{place} does not name its model; add --model NAME")
    model, known, notes = _named(facts, model, source)
    table = weights.family(model, source)
    state_dict = unwrapped(found.state_dict, table, place, report)
    if facts.arguments:
        known, more = timm_arguments.fields(
            model, known, facts.arguments, state_dict.keys(), facts.num_classes
        )
        notes += more
    fields = {**known, **fields(model)}
    trained, trained_size = None, trained_size or facts.trained_size
    if trained_size:
        trained = Trained.of(model, trained_size, known if found.config else fields)
    size = image_size or facts.image_size
    if source == "timm":
        notes += timm_arguments.notes_on_size(model, size)
    for note in notes:
        report(note)
    variables = weights.load(
        model,
        source,
        state_dict,
        image_size=size,
        num_classes=num_classes,
        in_channels=channels,
        report=report,
        trained=trained,
        **fields,
    )
    _compare(facts, *weights.read_trained_with(table, state_dict), place)
    evaluation = published(facts.preprocessing, size_of(model, size))
    return as_saved(
        variables,
        model,
        fields,
        size,
        source,
        place,
        facts.preprocessing,
        class_names=facts.class_names,
        evaluation=evaluation,
    )


def _named(
    facts: hub_config.Description, model: str | None, source: str
) -> tuple[str, dict[str, Any], list[str]]:
    """Return the model, the fields of its architecture, and notes.

    Raises:
      InputError: no model is given, and none corresponds to the architecture.
    """
    notes = list(facts.notes)
    if not facts.architecture:
        return model or facts.model, facts.fields, notes
    try:
        named, known = weights.reference(source, facts.architecture)
    except InputError:
        if model is None:
            raise
        named, known = "", {}
    if model in (None, named):
        return named, known, notes
    note = f"config.json names the architecture {facts.architecture!r}; {model} is used as stated"
    return model, {}, [*notes, note]


def _describe(found: foreign.Foreign, place: str) -> hub_config.Description:
    if "model_type" in found.config:
        return hugging_face_config.describe(
            found.config, found.preprocessor, found.state_dict, place
        )
    return hub_config.describe(found.config, place)


def _compare(facts: hub_config.Description, classes: int, channels: int | None, place: str) -> None:
    """Raise an InputError if the weights have other classes or channels than `config.json` says."""
    for name, said, found in (
        ("num_classes", facts.num_classes, classes),
        ("in_chans", facts.channels, channels),
    ):
        if said is not None and found is not None and said != found:
            raise InputError(
                f"the config.json of {place} says {name}={said}, but the weights have {found}"
            )


def as_saved(
    variables: dict[str, Any],
    model: str,
    fields: dict[str, Any],
    image_size: ImageSize,
    source: str,
    origin: str,
    preprocessing: dict[str, Any],
    channels: int | None = None,
    *,
    class_names: tuple[str, ...] = (),
    evaluation: dict[str, Any] | None = None,
) -> Saved:
    """Return variables with their description.

    Classes and input channels are read from the arrays, or from `fields` and `channels` if the
    model has another name for its first kernel or classifier. A classifier of another number of
    classes has lost the names.
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
        for_channels(preprocessing, channels),
        class_names=names_of(model, fields, class_names),
        evaluation=evaluation or {},
    )


def for_channels(preprocessing: dict[str, Any], channels: int | None) -> dict[str, Any]:
    """Adapt preprocessing to another number of channels.

    Each channel gets the average mean and std over the old channels, as in timm.
    """
    result = dict(preprocessing)
    for name in {"mean", "std"} & result.keys():
        values = result[name]
        if len(values) != channels:
            result[name] = [sum(values) / len(values)] * channels
    if "test_input_size" in result:
        result["test_input_size"] = [channels, *result["test_input_size"][1:]]
    return result
