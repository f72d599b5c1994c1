"""`python -m cv_jax convert`: converts weights from and to torchvision, timm and others.

    python -m cv_jax convert hf-hub:timm/resnet18.a1_in1k resnet18.safetensors
    python -m cv_jax convert alexnet.pth alexnet.safetensors \\
        --model alexnet_one_stream --source torchvision --num-classes 10
    python -m cv_jax convert resnet18.safetensors timm-resnet18 --to timm
    python -m cv_jax convert checkpoint.pth.tar#state_dict_ema resnet18.safetensors \\
        --model resnet18 --source timm

SOURCE is a cv_jax file, a run directory (newest sound checkpoint; averaged weights if it has them),
a .safetensors, .pth, .pth.tar, .pt, .bin, .ckpt or .npz file of another library, a folder in the
Hub's layout (config.json of timm or transformers, and model.safetensors, in one file or several),
or hf-hub:OWNER/NAME. SOURCE#ENTRY takes one dictionary of a checkpoint, or the arrays under one
prefix; without it the network is found, and averaged weights (model_ema, teacher) are preferred.
DEST is a cv_jax file (--to ours), a file of one of these types, or, without such a suffix, a folder
for timm.create_model("local-dir:FOLDER", pretrained=True).
"""

import argparse
import pathlib
from typing import Any

import jax

from cv_jax import interop, output
from cv_jax.commands import option_types
from cv_jax.config.model_fields import parse_fields
from cv_jax.config.values import LARGEST
from cv_jax.errors import InputError, Parser, printable
from cv_jax.interop import classes, foreign, hub_folder, place, preprocessing, pretrained, saved
from cv_jax.interop.saved import Saved

OURS = "ours"


def main(arguments: list[str]) -> int:
    """Convert weights, and print the destination and every change.

    Raises:
      InputError: the options or the weights do not fit; no file is written.
    """
    parser = Parser(
        prog="python -m cv_jax convert",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source_place", metavar="SOURCE")
    parser.add_argument("dest", metavar="DEST", type=option_types.path)
    parser.add_argument("--model", help="name of the model in cv_jax (default: from config.json)")
    parser.add_argument("--source", choices=interop.SOURCES, help="layout of SOURCE")
    parser.add_argument(
        "--to",
        choices=(OURS, *interop.TARGETS),
        help="layout of DEST (default: ours, or the source of a cv_jax file)",
    )
    parser.add_argument("--num-classes", type=int, help="replace the classifier; 0 drops it")
    parser.add_argument(
        "--image-size", type=option_types.image_size, help="224, or HEIGHTxWIDTH such as 64x256"
    )
    parser.add_argument(
        "--trained-size",
        type=option_types.image_size,
        help="size of the training images, if SOURCE does not state it and its patches or windows "
        "are no square (224 or HEIGHTxWIDTH)",
    )
    parser.add_argument("--channels", type=int, help="input channels")
    parser.add_argument(
        "--fields",
        type=option_types.fields,
        default={},
        help="fields of the model: groups=32,width_per_group=4",
    )
    parser.add_argument("--force", action="store_true", help="replace DEST if it exists")
    options = parser.parse_args(arguments)
    output.optional()  # the weights are the result

    option_types.require_ranges(options, num_classes=(0, LARGEST), channels=(1, LARGEST))
    if options.dest.exists() and not options.force:
        raise InputError(
            f"{options.dest} exists; choose another name, or add --force to replace it"
        )

    weights, usual = _convert(options)
    if not weights.variables.get("params"):
        raise InputError(f"--num-classes=0: {weights.model} has no parameters but its classifier")
    to = options.to or usual
    _write(weights, to, options.dest)
    parameters = sum(x.size for x in jax.tree.leaves(weights.variables["params"]))
    print(printable(f"{options.dest}: {weights.model} as {to}, {parameters:,} parameters"))
    return 0


def _convert(options: argparse.Namespace) -> tuple[Saved, str]:
    """Return the weights of SOURCE, fitted to the options, and the default layout of DEST."""
    if pretrained.is_run(options.source_place):
        run = pretrained.read_run(pathlib.Path(options.source_place))
        return _refit(classes.named(run.weights, run.config, None, _note), options), OURS
    found = foreign.read(options.source_place)
    if saved.METADATA in found.metadata:
        weights = _refit(saved.parse(*found[:2], options.source_place), options)
        return weights, weights.source if weights.source in interop.TARGETS else OURS
    weights = place.from_foreign(
        found,
        options.source_place,
        _note,
        model=options.model,
        source=options.source,
        fields=lambda model: _fields(model, options),
        image_size=options.image_size,
        num_classes=options.num_classes,
        channels=options.channels,
        trained_size=options.trained_size,
    )
    return weights, OURS


def _refit(old: Saved, options: argparse.Namespace) -> Saved:
    """Fit cv_jax weights to the classes, channels or image size in the options."""
    if options.trained_size not in (None, old.image_size):
        height, width = old.image_size
        raise InputError(
            f"--trained-size does not fit {options.source_place}: its images have {height}x{width}"
        )
    for name in ("model", "source"):
        given, stored = getattr(options, name), getattr(old, name)
        if given is not None and given != stored:
            raise InputError(
                f"--{name}={given} does not fit {options.source_place}: its {name} is "
                f"{stored or 'cv_jax'}"
            )
    fields = {**old.fields, **_fields(old.model, options)}
    if options.num_classes is not None:
        fields["num_classes"] = options.num_classes
    size = options.image_size or old.image_size
    channels = options.channels or old.channels
    variables = saved.fit(
        old, old.model, image_size=size, in_channels=channels, report=_note, **fields
    )
    return place.as_saved(
        variables,
        old.model,
        fields,
        size,
        old.source,
        old.origin or options.source_place,
        old.preprocessing,
        channels,
        class_names=old.class_names,
        evaluation=_evaluation(old, size),
    )


def _fields(model: str, options: argparse.Namespace) -> dict[str, Any]:
    elsewhere = {"num_classes": "--num-classes", "image_size": "--image-size"}
    return parse_fields(model, options.fields, "--fields", elsewhere)


def _evaluation(old: Saved, size: tuple[int, int]) -> dict[str, Any]:
    """Return `Saved.evaluation` for another input size; a note says what has no counterpart."""
    evaluation = dict(old.evaluation)
    before = evaluation.pop("eval_preprocess", None)
    after = preprocessing.resized(before, old.image_size, size)
    if after is not None:
        return {**evaluation, "eval_preprocess": after}
    if before is not None:
        _note(f"eval_preprocess={before!r} is for another input size and is left out")
    return evaluation


def _write(weights: Saved, to: str, dest: pathlib.Path) -> None:
    if to == OURS:
        if dest.suffix != ".safetensors":
            raise InputError(f"{dest}: the name of a cv_jax file must end in .safetensors")
        saved.write(dest, weights)
        return
    hub_folder.write(dest, weights, to, _note)


def _note(sentence: str) -> None:
    print(f"note: {printable(sentence)}")
