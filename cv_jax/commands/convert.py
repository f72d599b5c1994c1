"""`python -m cv_jax convert`: weights from and to torchvision, timm and others.

    python -m cv_jax convert hf-hub:timm/resnet18.a1_in1k resnet18.safetensors
    python -m cv_jax convert alexnet.pth alexnet.safetensors \\
        --model alexnet_one_stream --source torchvision --num-classes 10
    python -m cv_jax convert resnet18.safetensors timm-resnet18 --to timm

SOURCE is one of our files, a run directory (its newest sound checkpoint, averaged weights if it has
them), a .safetensors, .pth, .pt, .bin or .npz file of another project, a
folder in the Hub's layout (config.json and model.safetensors), or hf-hub:OWNER/NAME. DEST is one of
our files (--to ours), or a file of one of those kinds, or without such an ending a folder in the
Hub's layout.
"""

import argparse
import pathlib

import jax

from cv_jax import interop, pretrained
from cv_jax.commands import option_types
from cv_jax.errors import InputError
from cv_jax.interop import foreign, place, saved
from cv_jax.interop.saved import Saved

OURS = "ours"


def main(arguments: list[str]) -> int:
    """Converts, and says in a few lines what was written and what was changed.

    Raises:
      InputError: something does not fit; nothing has been written.
    """
    parser = argparse.ArgumentParser(
        prog="python -m cv_jax convert",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source_place", metavar="SOURCE")
    parser.add_argument("dest", metavar="DEST", type=pathlib.Path)
    parser.add_argument("--model", help="our name of the model; config.json can tell it")
    parser.add_argument("--source", choices=interop.SOURCES, help="whose layout SOURCE has")
    parser.add_argument(
        "--to",
        choices=(OURS, *interop.SOURCES),
        help="layout of DEST (default: ours; for a file of ours, that of its source)",
    )
    parser.add_argument("--num-classes", type=int, help="another classifier; 0 for none")
    parser.add_argument("--image-size", type=option_types.image_size, help="224 or HEIGHTxWIDTH")
    parser.add_argument("--channels", type=int, help="input channels")
    parser.add_argument(
        "--fields",
        type=option_types.fields,
        default={},
        help="of the model: groups=32,width_per_group=4",
    )
    parser.add_argument("--force", action="store_true", help="replace DEST if it exists")
    options = parser.parse_args(arguments)

    for name in ("num_classes", "channels"):
        value, least = getattr(options, name), int(name == "channels")
        if value is not None and value < least:
            raise InputError(f"--{name.replace('_', '-')} must be at least {least}, got {value}")
    if options.dest.exists() and not options.force:
        raise InputError(f"{options.dest} exists; another name, or --force to replace it")

    weights, usual = _convert(options)
    to = options.to or usual
    _write(weights, to, options.dest)
    parameters = sum(x.size for x in jax.tree.leaves(weights.variables["params"]))
    print(f"{options.dest}: {weights.model} as {to}, {parameters:,} parameters")
    return 0


def _convert(options: argparse.Namespace) -> tuple[Saved, str]:
    """What is at SOURCE, as the options ask for it, and the usual layout to write it in."""
    if pretrained.is_run(options.source_place):
        run = pretrained.read_run(pathlib.Path(options.source_place))
        return _refit(run.weights, options), OURS
    found = foreign.read(options.source_place)
    if saved.METADATA in found.metadata:
        weights = _refit(saved.parse(*found[:2], options.source_place), options)
        return weights, weights.source or OURS
    weights = place.from_foreign(
        found,
        options.source_place,
        _note,
        model=options.model,
        source=options.source,
        fields=options.fields,
        image_size=options.image_size,
        num_classes=options.num_classes,
        channels=options.channels,
    )
    return weights, OURS


def _refit(old: Saved, options: argparse.Namespace) -> Saved:
    """Our own weights, for other classes, channels or images where the options ask for them."""
    for name in ("model", "source"):
        given, stored = getattr(options, name), getattr(old, name)
        if given is not None and given != stored:
            raise InputError(
                f"--{name} {given}: {options.source_place} holds {stored or 'weights trained here'}"
            )
    fields = {**old.fields, **options.fields}
    if options.num_classes is not None:
        fields["num_classes"] = options.num_classes
    size = options.image_size or old.image_size
    channels = options.channels or old.channels
    variables = saved.fit(
        old, old.model, image_size=size, channels=channels, report=_note, **fields
    )
    origin = old.origin or options.source_place
    preprocessing = old.preprocessing
    return place.as_saved(
        variables, old.model, fields, size, old.source, origin, preprocessing, channels
    )


def _write(weights: Saved, to: str, dest: pathlib.Path) -> None:
    if to == OURS:
        if dest.suffix != ".safetensors":
            raise InputError(f"our files end in .safetensors, not {dest.suffix or 'in nothing'!r}")
        saved.write(dest, weights)
        return
    state_dict = interop.export(
        weights.model, to, weights.variables, image_size=weights.image_size, **weights.fields
    )
    if dest.suffix in foreign.SUFFIXES:
        foreign.write(dest, state_dict, {})
        return
    write_a_file = f"write a file ({', '.join(foreign.SUFFIXES)})"
    published = interop.published(weights.model, to, weights.fields)
    if published is None:
        raise InputError(
            f"{to} has no name for {weights.model} with these fields, which a folder's config.json "
            f"must give: {write_a_file}"
        )
    if "first_conv" not in published:
        none = f"a folder's config.json names PyTorch's layers, and {to} has none"
        raise InputError(f"{none}: {write_a_file}")
    foreign.write(dest, state_dict, _hub_config(weights, **published))


def _hub_config(weights: Saved, architecture: str, first_conv: str, classifier: str) -> dict:
    """`config.json` as timm writes and reads it."""
    classes = weights.fields.get("num_classes", 0)
    return {
        "architecture": architecture,
        "num_classes": classes,
        "model_args": {"in_chans": weights.channels},
        "pretrained_cfg": {
            **weights.preprocessing,
            "input_size": [weights.channels, *weights.image_size],
            "num_classes": classes,
            "first_conv": first_conv,
            "classifier": classifier,
        },
    }


def _note(sentence: str) -> None:
    print(f"note: {sentence}")
