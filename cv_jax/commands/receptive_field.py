"""`python -m cv_jax receptive-field NAME`: prints the receptive field of each layer of a model.

Size is the rectangle of pixels that a unit can depend on, if the image edges do not clip it;
"image" is the whole image. Stride is the distance of neighbouring units in pixels. "seen" is the
share of an image of the requested size that a unit depends on, the mean over all units. The model
is traced in evaluation mode; nothing is trained or computed.
"""

import json

from cv_jax import models
from cv_jax.commands import option_types
from cv_jax.config.model_fields import parse_fields
from cv_jax.errors import InputError, Parser


def main(arguments: list[str]) -> int:
    """Print one line per feature of the model, in forward order.

    Raises:
      InputError: the model is unknown, takes no image, or does not accept the fields or image size,
        or a primitive of its program has no dependence rule.
    """
    parser = Parser(prog="python -m cv_jax receptive-field", description=__doc__)
    parser.add_argument("name", help="model, as listed by python -m cv_jax models")
    parser.add_argument(
        "--image-size",
        type=option_types.image_size,
        help="224, or HEIGHTxWIDTH such as 64x256; default: as published",
    )
    parser.add_argument(
        "--fields",
        type=option_types.fields,
        default={},
        help="fields of the model: patch_size=8,depth=6",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON array instead")
    options = parser.parse_args(arguments)

    from cv_jax.inspect import receptive_field

    model, inputs, image_size = _model(options)
    try:
        found = receptive_field.layers(model, inputs, image_size)
    except (ValueError, TypeError, NotImplementedError) as error:
        raise InputError(f"{options.name}: {str(error).splitlines()[0]}") from None
    if options.json:
        print("[\n" + ",\n".join(json.dumps(layer._asdict()) for layer in found) + "\n]")
    else:
        _print_table(found)
    return 0


def _model(options):
    """Return the module, valid inputs, and the image size."""
    try:
        inputs = models.dummy_inputs(options.name)
        if inputs[0].ndim != 4:
            raise InputError(
                f"{options.name} takes tokens, not an image: it has no receptive field"
            )
        image_size = options.image_size or inputs[0].shape[1:3]
        elsewhere = {"image_size": "--image-size"}
        fields = parse_fields(options.name, options.fields, "--fields", elsewhere)
        if options.image_size and "image_size" in models.fields(options.name):
            fields["image_size"] = options.image_size
        return models.create(options.name, **fields), inputs, image_size
    except ValueError as error:
        raise InputError(str(error)) from None


def _print_table(found) -> None:
    rows = [("layer", "shape", "size", "stride", "seen")]
    for layer in found:
        shape = "x".join(map(str, layer.shape))
        stride = _pair(layer.stride) if layer.stride else "-"
        rows.append((layer.name, shape, _pair(layer.size), stride, f"{layer.seen:.1%}"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for name, *cells in rows:
        cells = [f"{cell:>{width}}" for cell, width in zip(cells, widths[1:], strict=True)]
        print("  ".join([f"{name:{widths[0]}}", *cells]))


def _pair(size: tuple[int, int] | None) -> str:
    if size is None:
        return "image"
    return str(size[0]) if size[0] == size[1] else f"{size[0]}x{size[1]}"
