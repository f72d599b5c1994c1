"""`python -m cv_jax receptive-field NAME`: how much of the image each layer of a net can see.

Size is the rectangle of pixels that a unit can depend on, where the edges of the image do not cut
it; "image" is all of it. Stride is the distance of neighbouring units in pixels, and "seen" the
share of an image of the usual size that a unit sees, the mean over all units. Traced from the
program in evaluation; nothing is trained or computed.
"""

import argparse
import json

from cv_jax import models
from cv_jax.commands import option_types
from cv_jax.errors import InputError


def main(arguments: list[str]) -> int:
    """Prints one line for each feature of the model, in forward order.

    Raises:
      InputError: no model has this name, it takes no image, or fields or image size do not fit.
    """
    parser = argparse.ArgumentParser(prog="python -m cv_jax receptive-field", description=__doc__)
    parser.add_argument("name", help="of the model, as python -m cv_jax models lists them")
    parser.add_argument(
        "--image-size",
        type=option_types.image_size,
        help="224 or HEIGHTxWIDTH; default: as published",
    )
    parser.add_argument(
        "--fields",
        type=option_types.fields,
        default={},
        help="other fields of the model: patch_size=8,depth=6",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON array instead")
    options = parser.parse_args(arguments)

    from cv_jax.inspect import receptive_field

    model, inputs, image_size = _model(options)
    try:
        found = receptive_field.layers(model, inputs, image_size)
    except (ValueError, TypeError) as error:
        raise InputError(f"{options.name}: {str(error).splitlines()[0]}") from None
    if options.json:
        print("[\n" + ",\n".join(json.dumps(layer._asdict()) for layer in found) + "\n]")
    else:
        _print_table(found)
    return 0


def _model(options):
    """The module, valid inputs, and the size of the image."""
    try:
        inputs = models.dummy_inputs(options.name)
        if inputs[0].ndim != 4:
            raise InputError(f"{options.name} takes tokens, no image: it has no receptive field")
        image_size = options.image_size or inputs[0].shape[1:3]
        fields = dict(options.fields)
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
