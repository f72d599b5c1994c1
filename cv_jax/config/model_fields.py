"""Values of model fields from the text of a command line."""

import typing
from collections.abc import Mapping
from typing import Any

from cv_jax import models
from cv_jax.config.limits import check_model_field
from cv_jax.config.values import check
from cv_jax.errors import InputError, did_you_mean


def parse_fields(
    model: str,
    texts: Mapping[str, str],
    flag: str,
    elsewhere: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Return the values of a model's fields, in the types of the fields.

    Args:
      model: the registry's name.
      texts: name of a field → text, as in `--config.model.NAME=TEXT`.
      flag: name of the option, for messages.
      elsewhere: fields that another option sets → that option.

    Raises:
      InputError: the model or a field is unknown, or a value does not fit its field.
    """
    try:
        known = models.fields(model)
    except ValueError as error:
        raise InputError(str(error)) from None
    hints, values = typing.get_type_hints(models.MODELS[model].module), {}
    for name, text in texts.items():
        if name in (elsewhere or {}):
            raise InputError(f"{flag}: {name} is set by {elsewhere[name]}")
        if name not in known:
            hint = did_you_mean(name, known) or f"; it has {', '.join(known)}"
            raise InputError(f"{flag}: model {model!r} has no field {name!r}{hint}")
        field = f"{flag}: {name}"
        values[name] = check(text, hints[name], field, parsing=True)
        check_model_field(field, name, values[name])
    return values
