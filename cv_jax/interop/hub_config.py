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
    """

    architecture: str = ""
    image_size: tuple[int, int] | None = None
    preprocessing: dict[str, Any] = {}
    class_names: tuple[str, ...] = ()


def describe(config: Mapping[str, Any], place: str) -> Description:
    """Return the facts of a `config.json`; no facts if it is empty.

    Args:
      config: the content of the file.
      place: of the weights, for messages.

    Raises:
      InputError: a value has another form than timm's.
    """
    details = config.get("pretrained_cfg", config)  # older files have no pretrained_cfg
    try:
        size = details.get("input_size")
        return Description(
            config.get("architecture", ""),
            size and (int(size[-2]), int(size[-1])),
            {name: details[name] for name in _PREPROCESSING if details.get(name) is not None},
            _class_names({**details, **config}),
        )
    except (ValueError, AttributeError, TypeError, IndexError) as error:
        raise InputError(f"cannot read the config.json of {place}: {error}") from None


def _class_names(facts: Mapping[str, Any]) -> tuple[str, ...]:
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
