"""`python -m cv_jax prepare NAME [--to DIR]`: builds a dataset, or re-encodes a dataset for speed.

    prepare NAME              downloads a TFDS dataset and writes it as ArrayRecord
    prepare SOURCE --to DIR   re-encodes a prepared dataset, or folder:PATH; train on records:DIR

The same command resumes a re-encoding that was killed.
"""

import argparse
import importlib.util
import os
from pathlib import Path

from cv_jax import paths
from cv_jax.commands import option_types
from cv_jax.config.fields import FIELDS, MAX_IMAGE_SIDE
from cv_jax.config.values import LARGEST
from cv_jax.errors import InputError, Parser, one_line, printable, shell_line


def main(arguments: list[str]) -> int:
    """Build or re-encode a dataset; return 0 when all files are written.

    Raises:
      InputError: a name or an option is invalid, TensorFlow is missing, or DIR was begun with other
        options.
      RunError: an image cannot be read.
    """
    from cv_jax.data.decode import MAX_PIXELS

    parser = Parser(
        prog="python -m cv_jax prepare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", help="TFDS name; with --to also folder:PATH")
    parser.add_argument("--data-dir", help="folder of TFDS datasets, as config.data.dir")
    parser.add_argument(
        "--to", type=option_types.path, metavar="DIR", help="re-encode into this folder"
    )
    parser.add_argument(
        "--splits", default="", help="splits to re-encode: train,val (default: all)"
    )
    parser.add_argument(
        "--short-side", type=int, help="shrink larger images to this shorter side, in pixels"
    )
    parser.add_argument("--method", default="bicubic", help="resampling filter of --short-side")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--quality", type=int, default=90, help="JPEG quality (default: 90)")
    how.add_argument("--raw", action="store_true", help="store raw pixels instead")
    parser.add_argument("--shard-examples", type=int, default=2048)
    parser.add_argument(
        "--skip-broken", action="store_true", help="skip images that cannot be read"
    )
    parser.add_argument(
        "--max-pixels",
        type=int,
        default=MAX_PIXELS,
        help=f"images with more pixels count as unreadable (default: {MAX_PIXELS})",
    )
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="worker processes")
    flags = parser.parse_args(arguments)
    from cv_jax.data import sources

    folder = sources.data_folder(flags.data_dir)
    if flags.to is None:
        paths.require_folder(folder, "--data-dir")
        _build(flags.source, folder)
        return 0
    return _reencode(flags, folder, shell_line(["python", "-m", "cv_jax", "prepare", *arguments]))


def _build(name: str, folder: Path) -> None:
    """Download a TFDS dataset and write it as ArrayRecord."""
    from cv_jax.data import catalog

    if name.partition(":")[0] in ("folder", "records"):
        raise InputError(f"{name!r} exists already; add --to DIR to re-encode it")
    builder = catalog.load_builder(name, folder)
    if not builder.info.splits:
        if importlib.util.find_spec("tensorflow") is None:
            raise InputError(
                "TFDS needs TensorFlow to write a dataset (not to read it); install it with: "
                "pip install tensorflow-cpu"
            )
        builder = catalog.load_builder(name, folder, file_format="array_record")
        try:
            builder.download_and_prepare()
        except Exception as error:  # datasets raise different types
            raise InputError(f"dataset {name!r}: {one_line(error)}") from None
    for split, info in builder.info.splits.items():
        source = catalog.open_dataset(name, split, folder)
        if len(source) != info.num_examples:
            raise InputError(
                f"{split} of {name!r} has {len(source)} of {info.num_examples} examples"
            )
        print(printable(f"{name} {split}: {len(source):,} examples in {builder.data_path}"))


def _reencode(flags: argparse.Namespace, folder: Path, command: str) -> int:
    from cv_jax.augment import resample
    from cv_jax.data import reencode, splits
    from cv_jax.progress import counted

    paths.require_folder(flags.to, "--to")
    option_types.require_ranges(
        flags,
        short_side=(1, MAX_IMAGE_SIDE),
        shard_examples=(1, LARGEST),
        max_pixels=(1, LARGEST),
        workers=(1, FIELDS["data.workers"].maximum),
        quality=(1, 100),
    )
    if flags.method not in resample.METHODS:
        raise InputError(f"--method={flags.method} is not one of {', '.join(resample.METHODS)}")
    options = reencode.Options(
        short_side=flags.short_side,
        method=flags.method,
        quality=None if flags.raw else flags.quality,
        shard_examples=flags.shard_examples,
        skip_broken=flags.skip_broken,
        max_pixels=flags.max_pixels,
    )
    names = flags.splits.split(",") if flags.splits else _splits(flags.source, folder)
    index = reencode.reencode(
        flags.source,
        names,
        folder,
        flags.to,
        options,
        workers=flags.workers,
        command=command,
        progress=lambda loop: counted(loop, "writing shards"),
        say=splits.say,
    )
    for split, shards in index["splits"].items():
        count, size = sum(s["count"] for s in shards), index["sizes"][split]
        left = f", {size - count} broken left out" if size > count else ""
        shown = f"{split}: {count:,} examples in {len(shards)} shards in {flags.to}{left}"
        print(printable(shown))
    return 0


def _splits(name: str, folder: Path) -> list[str]:
    """Return all splits of a dataset."""
    kind, _, path = name.partition(":")
    if kind == "folder":
        from cv_jax.data.folder import splits_of

        return splits_of(name, Path(path).expanduser())
    if kind == "records":
        from cv_jax.data.records import read_index

        return list(read_index(Path(path).expanduser())["splits"])
    from cv_jax.data import catalog

    return list(catalog.load_builder(name, folder).info.splits) or ["train"]
