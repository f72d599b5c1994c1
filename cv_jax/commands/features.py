"""`python -m cv_jax features MODEL [IMAGE…|--split S] --feature NAME --out FILE`: writes features.

MODEL is a run directory, a file of `python -m cv_jax convert`, a folder in the Hub's layout, or
hf-hub:OWNER/NAME. FILE ends in .npz or .parquet and gets the feature of every image with its name
and label. Maps [H, W, D] and tokens [T, D] are written as they are; --average averages them.
Batches run on all devices. A stopped command continues where it was when it is repeated.

    python -m cv_jax features runs/vit --split train --feature pre_logits --out train.npz
"""

import argparse
import pathlib
import sys

import numpy as np

from cv_jax import paths
from cv_jax.errors import InputError, Parser, one_line, printable


def main(arguments: list[str]) -> int:
    """Write the features, or list their names and shapes with `--list`.

    Raises:
      InputError: MODEL or the images cannot be read, the feature is unknown, or FILE exists.
    """
    options = _parse(arguments)

    from cv_jax.data import image_files
    from cv_jax.inspect import feature_files, network
    from cv_jax.interop import trained as nets

    out = pathlib.Path(options.out) if options.out else None
    if out is not None:
        _check_out(out, options.force)
    given = {flag: getattr(options, flag) for flag in nets.FLAGS}
    net = nets.open_trained(options.model, given, options.dir, _note)
    if options.images:
        source = nets.files_source(net, image_files.find(options.images, _note), _note)
    else:
        source = nets.split_source(net, options.data, options.split)
    model, variables = network.readable(net.model, net.weights.variables)
    example = nets.inputs(net, nets.one_batch(net, source, np.array([0])))
    known = network.shapes(model, variables, *example)
    if options.list:
        for name, shape in known.items():
            print(f"{name}  {'x'.join(map(str, shape.shape[1:]))}")
        return 0
    if options.feature not in known:
        raise InputError(f"no feature {options.feature!r}; allowed: {', '.join(known)}")

    parts = feature_files.Parts(out, _identity(options, net, source, example[0].shape))
    run = _extractor(model, variables, options.feature, options.average)
    _extract(net, source, parts, run, options.batch_size)
    rows = feature_files.join(parts, out)
    parts.remove()
    print(printable(f"{out}: {options.feature} of {rows:,} images"))
    return 0


def _identity(options, net, source, shape) -> dict:
    """Return all that decides the content of a batch, as JSON values."""
    from cv_jax.interop.pretrained import digest

    return {
        "model": digest(net.weights.variables),
        "feature": options.feature,
        "average": options.average,
        "preprocess": net.config.eval_preprocess,
        "normalisation": [list(net.config.data.mean), list(net.config.data.std)],
        "image_shape": list(shape[1:]),
        "images": _digest_of(source),
        "batch_size": options.batch_size,
    }


def _extract(net, source, parts, run, size: int) -> None:
    """Write the batches that are not there yet."""
    from cv_jax.interop import trained as nets
    from cv_jax.progress import counted

    total = -(-len(source) // size)
    if parts.done:
        print(f"continuing at batch {parts.done} of {total}", file=sys.stderr)
    loaded = nets.batches(net, source, size, parts.done)
    for step in counted(range(parts.done, total), f"features of {len(source):,} images"):
        batch = next(loaded)
        rows = min(size, len(source) - step * size)
        found = run(nets.inputs(net, batch))[:rows]
        names = [_name(source, step * size + i) for i in range(rows)]
        parts.write({"feature": found, "label": batch["label"][:rows], "name": np.array(names)})


def _parse(arguments: list[str]) -> argparse.Namespace:
    from cv_jax.interop.trained import FLAGS

    parser = Parser(
        prog="python -m cv_jax features",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", metavar="MODEL", help="run directory or weights")
    parser.add_argument("images", nargs="*", metavar="IMAGE", help="file, folder or pattern")
    parser.add_argument("--split", help="split (default without IMAGE: the test split)")
    parser.add_argument("--data", metavar="NAME", help="dataset (default: that of the run)")
    parser.add_argument("--feature", help="name of the feature; --list shows all")
    parser.add_argument("--list", action="store_true", help="print names and shapes, write nothing")
    parser.add_argument(
        "--average", action="store_true", help="average maps and tokens over their places"
    )
    parser.add_argument("--out", metavar="FILE", help="file to write: .npz or .parquet")
    parser.add_argument("--batch-size", type=int, default=64, help="images (default: 64)")
    parser.add_argument("--force", action="store_true", help="overwrite FILE")
    parser.add_argument("--dir", help="folder of prepared datasets, as config.data.dir")
    for flag, field in FLAGS.items():
        parser.add_argument(f"--{flag}", help=f"as config.{field} (default: as MODEL records)")
    options = parser.parse_args(arguments)
    if not options.list and not (options.feature and options.out):
        raise InputError("--feature and --out are needed; --list shows the features")
    if options.images and (options.split or options.data):
        raise InputError("IMAGE and --split or --data do not go together")
    if options.batch_size < 1:
        raise InputError(f"--batch-size={options.batch_size} must be at least 1")
    return options


def _check_out(out: pathlib.Path, force: bool) -> None:
    from cv_jax.inspect.feature_files import SUFFIXES

    if out.suffix not in SUFFIXES:
        raise InputError(f"--out={out} must end in {' or '.join(SUFFIXES)}")
    paths.require_new_file(out, "--out", force)


def _extractor(model, variables, name: str, average: bool):
    """Return the function `inputs → feature` on all devices, float32 [B, …]."""
    import jax

    from cv_jax.devices import mesh as meshes
    from cv_jax.inspect import network

    mesh = meshes.make_mesh()
    variables = jax.device_put(variables, meshes.replicated(mesh))

    @jax.jit
    def extract(variables, *inputs):
        found = network.run(model, variables, *inputs)[1][name].astype("float32")
        return found.mean(axis=tuple(range(1, found.ndim - 1))) if average else found

    def run(inputs):
        count = len(inputs[0])
        missing = -count % jax.device_count()
        padded = [
            np.concatenate([x, np.repeat(x[:1], missing, axis=0)]) for x in map(np.asarray, inputs)
        ]
        return np.asarray(extract(variables, *jax.device_put(padded, meshes.over_batch(mesh))))[
            :count
        ]

    return run


def _digest_of(source) -> str:
    """Return the identity of the images: of files their names and sizes."""
    import hashlib
    import json

    checksum = hashlib.sha256(json.dumps(source.fingerprint, sort_keys=True).encode())
    checksum.update(f"{source.name} {len(source)}".encode(errors="surrogateescape"))
    if not source.fingerprint:
        for i in range(len(source)):
            place = pathlib.Path(source.records.place(i))
            checksum.update(f"{place}\0{place.stat().st_size}\n".encode("utf-8", "surrogateescape"))
    return checksum.hexdigest()


def _name(source, index: int) -> str:
    """Return the path of a file, or the position in a dataset."""
    return source.records.place(index) if not source.fingerprint else str(index)


def _note(sentence: str) -> None:
    print(f"note: {printable(one_line(sentence))}", file=sys.stderr)
