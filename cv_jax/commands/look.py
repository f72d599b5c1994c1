"""`python -m cv_jax look MODEL [WHAT…]`: shows what a trained network has learnt.

MODEL is a run directory, a file of `python -m cv_jax convert`, a folder in the Hub's layout, or
hf-hub:OWNER/NAME. WHAT is one or more of:

{analyses}

Without WHAT all of them. Every analysis writes its pictures (PNG) and their numbers (CSV) to DIR,
and prints one sentence with the number that the picture illustrates; `look.json` has all numbers.
An analysis that does not apply to MODEL is named with the reason.
"""

import argparse
import csv
import functools
import json
import math
import pathlib
import sys
import textwrap
from typing import Any

import numpy as np

from cv_jax.errors import InputError, Parser, one_line, printable

COUNT, BATCH = 8, 64  # images that are drawn; images of a batch of a whole split
INDEX = "look.json"


def main(arguments: list[str]) -> int:
    """Write pictures and numbers.

    Raises:
      InputError: MODEL or the images cannot be read, an analysis is unknown, or DIR holds results.
    """
    from cv_jax.inspect.look import ANALYSES, DoesNotApply

    options = _parse(arguments, ANALYSES)
    folder = pathlib.Path(options.out or f"{pathlib.Path(options.model).name}-look")
    if (folder / INDEX).exists() and not options.force:
        raise InputError(f"{folder} holds results; choose another --out, or add --force")
    subject = _subject(options)
    results: dict[str, Any] = {}
    for name in dict.fromkeys(options.what or ANALYSES):
        try:
            findings = ANALYSES[name](subject)
        except (DoesNotApply, NotImplementedError) as reason:  # a primitive without a rule
            print(printable(f"{name}: does not apply: {reason}"))
            results[name] = {"does_not_apply": str(reason)}
            continue
        folder.mkdir(parents=True, exist_ok=True)
        for finding in findings:
            _write(folder, finding)
            print(printable(f"{finding.name}: {finding.text}"))
        results[name] = {f.name: {"text": f.text, "rows": f.rows} for f in findings}
    folder.mkdir(parents=True, exist_ok=True)
    images = {"model": options.model, "images": list(subject.names)}
    (folder / INDEX).write_text(json.dumps(_finite({**images, **results}), indent=1) + "\n")
    print(f"written to {printable(str(folder))}")
    return 0


def _parse(arguments: list[str], analyses: dict) -> argparse.Namespace:
    from cv_jax.inspect.similarity import PROJECTIONS
    from cv_jax.interop.trained import FLAGS

    listed = "\n".join(
        textwrap.indent(f"{name:16} {' '.join((function.__doc__ or '').split())}", "  ")
        for name, function in analyses.items()
    )
    parser = Parser(
        prog="python -m cv_jax look",
        description=__doc__.replace("{analyses}", listed),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", metavar="MODEL", help="run directory or weights")
    parser.add_argument("what", nargs="*", metavar="WHAT", help="analyses (default: all)")
    parser.add_argument("--images", nargs="+", metavar="FILE", help="files, folders or patterns")
    parser.add_argument("--split", help="split whose images are shown (default: the test split)")
    parser.add_argument("--data", metavar="NAME", help="dataset (default: that of the run)")
    parser.add_argument("--count", type=int, default=COUNT, help=f"images (default: {COUNT})")
    parser.add_argument("--class", dest="class_", metavar="CLASS", help="class of saliency maps")
    parser.add_argument(
        "--feature", help="feature of Grad-CAM (default: the last map that the logits depend on)"
    )
    parser.add_argument(
        "--projections",
        metavar="NAMES",
        default="pca,tsne",
        help="of pca, tsne, umap, separated by commas (default: pca,tsne; umap: umap-learn)",
    )
    parser.add_argument("--with", dest="other", metavar="MODEL", help="second network, for cka")
    parser.add_argument("--out", metavar="DIR", help="folder to write (default: MODEL-look)")
    parser.add_argument("--force", action="store_true", help="overwrite results in DIR")
    parser.add_argument("--dir", help="folder of prepared datasets, as config.data.dir")
    for flag, field in FLAGS.items():
        parser.add_argument(f"--{flag}", help=f"as config.{field} (default: as MODEL records)")
    options = parser.parse_args(arguments)
    for name in options.what:
        if name not in analyses:
            raise InputError(f"unknown analysis {name!r}; allowed: {', '.join(analyses)}")
    if options.count < 1:
        raise InputError(f"--count={options.count} must be at least 1")
    options.projections = tuple(dict.fromkeys(options.projections.split(",")))
    for name in options.projections:
        if name not in PROJECTIONS:
            allowed = ", ".join(PROJECTIONS)
            raise InputError(f"--projections: unknown projection {name!r}; allowed: {allowed}")
    if options.images and (options.split or options.data):
        raise InputError("--images and --split or --data do not go together")
    return options


def _subject(options: argparse.Namespace):
    """Return the network and the images of the flags."""
    import jax

    from cv_jax.augment.batch import to_pixels
    from cv_jax.data import image_files
    from cv_jax.devices import compile_options
    from cv_jax.inspect.look import Subject
    from cv_jax.interop import pretrained
    from cv_jax.interop import trained as nets

    given = {flag: getattr(options, flag) for flag in nets.FLAGS}
    net = nets.open_trained(options.model, given, options.dir, _note)
    if options.images:
        files = image_files.find(options.images, _note)[: options.count]
        source = nets.files_source(net, files, _note)
        names = tuple(pathlib.Path(source.records.place(i)).name for i in range(len(source)))
    else:
        source = nets.split_source(net, options.data, options.split)
        names = ()
    count = min(options.count, len(source))
    # The same images at every call: spread over the whole split, so that classes differ.
    index = np.linspace(0, len(source) - 1, count).round().astype(int)
    batch = nets.with_written(net, nets.one_batch(net, source, index))
    images, *others = nets.inputs(net, batch)

    def split():
        for loaded in nets.batches(net, source, min(BATCH, len(source))):
            kept = loaded["position"] < len(source)
            loaded = {name: x[kept] for name, x in loaded.items()}
            yield {
                "inputs": nets.inputs(net, loaded),
                "pixels": loaded["image"],
                "label": loaded["label"],
            }

    def initial():
        rngs = {n: jax.random.key(net.config.seed) for n in ("params", "dropout", "mask")}
        init = jax.jit(net.model.init, compiler_options=compile_options.once())
        return init(rngs, images, *others)

    def checkpoints():
        return pretrained.read_checkpoints(pathlib.Path(options.model))

    companion = None
    if options.other is not None:
        second = nets.open_trained(options.other, {}, options.dir, _note)
        companion = second.model, second.weights.variables
    return Subject(
        model=net.model,
        variables=net.weights.variables,
        images=images,
        pixels=batch["image"],
        names=names or tuple(f"{options.split or 'test'} {i}" for i in index),
        labels=None if options.images or batch["label"].ndim > 1 else batch["label"],
        class_names=net.class_names(),
        others=tuple(others),
        to_pixels=functools.partial(to_pixels, net.config),
        initial=initial if net.is_run else None,
        checkpoints=checkpoints if net.is_run else None,
        companion=companion,
        split=None if options.images else split,
        options={
            "class": options.class_,
            "feature": options.feature,
            "projections": options.projections,
        },
    )


def _write(folder: pathlib.Path, finding) -> None:
    """Write the picture and the numbers of a finding."""
    if finding.figure is not None:
        finding.figure.savefig(folder / f"{finding.name}.png")
    # Names of files may not be valid UTF-8.
    options = {"newline": "", "encoding": "utf-8", "errors": "backslashreplace"}
    with open(folder / f"{finding.name}.csv", "w", **options) as file:
        writer = csv.DictWriter(file, list(finding.rows[0]))
        writer.writeheader()
        writer.writerows(finding.rows)


def _finite(value: Any) -> Any:
    """Replace numbers that JSON does not have by `None`."""
    if isinstance(value, dict):
        return {key: _finite(x) for key, x in value.items()}
    if isinstance(value, list):
        return [_finite(x) for x in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _note(sentence: str) -> None:
    print(f"note: {printable(one_line(sentence))}", file=sys.stderr)
