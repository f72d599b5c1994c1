"""The facts in the `config.json` of a folder in the Hub's layout, in timm's format."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from cv_jax.errors import InputError

_PREPROCESSING = (
    *("mean", "std", "interpolation", "crop_pct", "crop_mode"),
    *("test_input_size", "test_crop_pct"),
)


class Description(NamedTuple):
    """What `config.json` says of the weights beside it.

    Attributes:
      architecture: the source's name of the network; "" if unknown.
      image_size: (height, width) of the network's input, or `None`.
      preprocessing: image preprocessing.
      class_names: names of the classes, in the order of the classifier.
      source: layout of the weights; "" if the architecture's name does not give it.
      model: the registry's name of the network; "" if the architecture's name gives it.
      fields: fields of this model.
      notes: one sentence for each fact that has no counterpart.
      arguments: of timm's network, in addition to those of the architecture.
      trained_size: (height, width) of the images that positions and windows were trained on, or
        `None`.
      num_classes: classes of the weights, 0 without a classifier, or `None`.
      channels: input channels of the weights, or `None`.
    """

    architecture: str = ""
    image_size: tuple[int, int] | None = None
    preprocessing: dict[str, Any] = {}
    class_names: tuple[str, ...] = ()
    source: str = ""
    model: str = ""
    fields: dict[str, Any] = {}
    notes: tuple[str, ...] = ()
    arguments: dict[str, Any] = {}
    trained_size: tuple[int, int] | None = None
    num_classes: int | None = None
    channels: int | None = None


def describe(config: Mapping[str, Any], place: str) -> Description:
    """Return the facts of a `config.json`; no facts if it is empty.

    Args:
      config: the content of the file.
      place: of the weights, for messages.

    Raises:
      InputError: a value has another form than timm's, or two values contradict each other.
    """
    details = config.get("pretrained_cfg", config)  # older files have no pretrained_cfg
    try:
        arguments = dict(config.get("model_args") or {})
        size, sized = details.get("input_size"), arguments.get("img_size")
        size = size and tuple(map(int, size[-2:]))
        sized = sized and ((sized, sized) if isinstance(sized, int) else tuple(map(int, sized)))
        # A network for any image size resamples the positions of `img_size` on its own.
        dynamic = arguments.get("dynamic_img_size") or arguments.get("strict_img_size") is False
        pool = config.get("global_pool")
        if pool and arguments.setdefault("global_pool", pool) != pool:
            raise InputError(
                f"the config.json of {place} contradicts itself: global_pool={pool!r} and "
                f"model_args.global_pool={arguments['global_pool']!r}"
            )
        if details.get("label_offset"):
            raise InputError(
                f"the config.json of {place} has label_offset={details['label_offset']}: the "
                "classifier has classes that are not of the data set; such weights are not read"
            )
        return Description(
            config.get("architecture", ""),
            size if dynamic else sized or size,
            {name: details[name] for name in _PREPROCESSING if details.get(name) is not None},
            class_names_of({**details, **config}),
            arguments=arguments,
            trained_size=sized or (None if dynamic else size),
            num_classes=config.get("num_classes", details.get("num_classes")),
            channels=arguments.get("in_chans"),
        )
    except (ValueError, AttributeError, TypeError, IndexError) as error:
        raise InputError(f"cannot read the config.json of {place}: {error}") from None


def class_names_of(facts: Mapping[str, Any]) -> tuple[str, ...]:
    """Return timm's `label_names` (a list, or a dict by number) or the `id2label` of transformers.

    A number without a name in a dict is its own name.
    """
    names = next(
        (facts[key] for key in ("label_names", "labels", "id2label") if facts.get(key)), ()
    )
    if isinstance(names, dict):
        by_number = {int(number): name for number, name in names.items()}
        names = [by_number.get(k, k) for k in range(max(by_number) + 1)]
    return tuple(map(str, names))
