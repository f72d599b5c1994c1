"""`python -m cv_jax predict MODEL IMAGE…`: predicts the classes of image files.

A model that writes sequences predicts the sequence of the classes in an image.

MODEL is a run directory, a file of `python -m cv_jax convert`, a folder in the Hub's layout, or
hf-hub:OWNER/NAME. IMAGE is a file, a folder, which is searched with its subfolders, or a quoted
pattern such as "photos/**/*.png".

Images are preprocessed as in the evaluation of MODEL, with its test-time views. Names of classes,
normalisation and preprocessing are those that MODEL records. A file that cannot be read is skipped
with a line on standard error; after the predictions for all other files the exit code is 2.
"""

import argparse
import itertools
import json
import pathlib
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from cv_jax import tasks
from cv_jax.commands import option_types
from cv_jax.config.values import LARGEST
from cv_jax.data.decode import MAX_PIXELS
from cv_jax.errors import ExitCode, InputError, Parser, one_line, printable
from cv_jax.evaluation.sequence import make_writer
from cv_jax.evaluation.step import make_classifier

_BATCH = 32  # images per batch
_BEAMS = 4  # at least, of beam search

# Views of one image: uint8 [H, W, C], or with test-time views a tuple of [V, H, W, C].
Views = np.ndarray | tuple[np.ndarray, ...]


def main(arguments: list[str]) -> int:
    """Print one line per image: the most probable classes or sequences, and their probabilities.

    Raises:
      InputError: MODEL cannot be read or predicts no classes, or an IMAGE does not exist.
    """
    options = _parse(arguments)

    from cv_jax.data import image_files
    from cv_jax.interop.trained import FLAGS, open_trained
    from cv_jax.progress import counted

    files = image_files.find(options.images, _note)
    given = {flag: getattr(options, flag) for flag in FLAGS}
    net = open_trained(options.model, given, options.dir, _note)
    predict = _predictor(net, options.top)
    results = _results(_loader(net, options.max_pixels), predict, files, net.config)
    # On a terminal, the lines themselves show the progress.
    shown = files if sys.stdout.isatty() else counted(files, "classifying images")
    skipped = 0
    for file, found in zip(shown, results, strict=True):
        if isinstance(found, str):
            skipped += 1
            print(f"skipped: {printable(found)}", file=sys.stderr)
            continue
        if options.json:
            line = json.dumps({"image": str(file), "predictions": found}).replace("\x7f", r"\u007f")
        else:
            parts = [f"{row['name']} {row['probability']:.2%}" for row in found]
            line = printable(f"{file}: " + ", ".join(parts))
        print(line, flush=True)
    if skipped:
        print(f"{skipped} of {len(files)} images were skipped", file=sys.stderr)
    return ExitCode.MISTAKE if skipped else ExitCode.DONE


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = Parser(
        prog="python -m cv_jax predict",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", metavar="MODEL", help="run directory or weights of a classifier")
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="file, folder or pattern")
    parser.add_argument(
        "--top", type=int, default=5, help="classes, or sequences, per image (default: 5)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object per image")
    parser.add_argument(
        "--preprocess",
        metavar="OPERATIONS",
        help="preprocessing, as config.eval_preprocess (default: as MODEL records)",
    )
    for name in ("mean", "std"):
        parser.add_argument(
            f"--{name}",
            metavar="NUMBERS",
            help=f"normalisation, as config.data.{name} (default: as MODEL records)",
        )
    parser.add_argument(
        "--dir",
        help="folder of prepared datasets, as config.data.dir: a run from before class names were "
        "recorded takes them from its dataset",
    )
    parser.add_argument(
        "--max-pixels",
        type=int,
        default=MAX_PIXELS,
        metavar="N",
        help="skip images with more pixels (default: %(default)s)",
    )
    options = parser.parse_args(arguments)
    option_types.require_ranges(options, top=(1, LARGEST), max_pixels=(1, LARGEST))
    return options


def _results(
    load: Callable, predict: Callable, files: list, config: Any
) -> Iterator[list[dict[str, Any]] | str]:
    """Yield for each file its predictions, or the reason why it has none."""
    size = min(len(files), _BATCH)
    chunks = [files[i : i + size] for i in range(0, len(files), size)]
    pool = ThreadPoolExecutor(config.data.threads)
    try:
        ahead = [pool.submit(load, file) for file in chunks[0]]
        for chunk, following in itertools.zip_longest(chunks, chunks[1:], fillvalue=()):
            examples = [image.result() for image in ahead]
            ahead = [pool.submit(load, file) for file in following]
            yield from _predicted(predict, chunk, examples, size)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _predicted(
    predict: Callable, files: list, examples: list[Views | str], size: int
) -> list[list[dict[str, Any]] | str]:
    """Return the results of one batch; images of each shape are a batch of their own."""
    import jax
    from flax.errors import FlaxError

    results, groups = list(examples), {}
    for i, example in enumerate(examples):
        if not isinstance(example, str):
            groups.setdefault(tuple(x.shape for x in jax.tree.leaves(example)), []).append(i)
    for shapes, members in groups.items():
        padded = [examples[i] for i in members] + [examples[members[0]]] * (size - len(members))
        try:
            found = predict(jax.tree.map(lambda *images: np.stack(images), *padded))
        except (ValueError, TypeError, FlaxError) as error:
            made = " and ".join(f"{shape[-3]}x{shape[-2]}" for shape in shapes)
            found = [f"images of {made} do not fit the model ({one_line(error, 120)})"] * size
            found = [f"{files[i]}: {text}" for i, text in zip(members, found, strict=False)]
        for i, result in zip(members, found, strict=False):
            results[i] = result
    return results


def _loader(net: Any, limit: int) -> Callable[[pathlib.Path], Views | str]:
    """Return the function `file → preprocessed image, or the reason why there is none`."""
    from cv_jax.augment import apply_host
    from cv_jax.augment.views import apply_views
    from cv_jax.data import decode
    from cv_jax.evaluation import plan

    channels, config = net.weights.channels, net.config
    if channels not in (1, 3, 4):
        raise InputError(f"{net.place} has {channels} input channels; images have 1, 3 or 4")
    operations = plan.preprocessing(
        config.eval_preprocess, config.image_size, f"preprocessing of {net.place}"
    )
    if operations.test and tasks.make_task(config, net.model).written is not None:
        raise InputError(
            f"preprocessing of {net.place}: only classifiers average views; remove them"
        )

    def load(file):
        try:
            data = decode.read_file(file, limit)
            image = decode.open_image(data, channels, lambda: str(file), limit)
            image = np.asarray(apply_host(operations.fixed, None, image))
            return apply_views(operations.test, image) if operations.test else image
        except decode.BrokenExample as error:
            return str(error)
        except OSError as error:
            return f"{file}: {error.strerror or one_line(error)}"
        except Exception as error:  # an operation may fail for sizes such as 1x2000
            return f"{file}: {one_line(error)}"

    return load


def _predictor(net: Any, top: int) -> Callable[[Any], list[list[dict[str, Any]]]]:
    """Return the function `images → predictions of each image`, the most probable first.

    Raises:
      InputError: the model predicts no classes.
    """
    import jax

    weights, config = net.weights, net.config
    task = tasks.make_task(config, net.model)
    if task.written is not None:
        return _writer(net, top)
    classes, names = weights.fields.get("num_classes"), weights.class_names
    if task.class_scores is None or classes == 0:
        raise InputError(f"{net.place} holds {weights.model}, which is not a classifier")
    classes = classes or len(names) or None
    step = jax.jit(make_classifier(config, net.model, config.eval.average))

    def predict(images):
        count = len(jax.tree.leaves(images)[0])
        zeros = np.zeros(count, np.int32)
        batch = {"image": images, "label": zeros, "position": zeros}
        return list(map(best, np.asarray(step(weights.variables, batch))[:, :classes]))

    def best(probabilities):
        order = np.argsort(-probabilities, kind="stable")[:top]
        keys = ("class", "name", "probability")
        rows = [(int(k), names[k] if names else str(k), float(probabilities[k])) for k in order]
        return [dict(zip(keys, row, strict=True)) for row in rows]

    return predict


def _writer(net: Any, top: int) -> Callable[[Any], list[list[dict[str, Any]]]]:
    """Return the function `images → most probable sequences of each image`."""
    import jax

    from cv_jax.tasks.sequences import classes_of

    limit, weights = net.config.eval.max_length, net.weights
    write = jax.jit(make_writer(net.config, net.model, limit, max(top, _BEAMS)))

    def predict(images):
        tokens, scores = map(np.asarray, write(weights.variables, images))
        return [
            [
                {"sequence": row, "name": _text(row), "probability": float(np.exp(score))}
                for row, score in zip(classes_of(own), values, strict=True)
                if np.isfinite(score)
            ][:top]
            for own, values in zip(tokens, scores, strict=True)
        ]

    def _text(row):
        names = weights.class_names
        words = [names[k] if 0 <= k < len(names) else str(k) for k in row]
        return ("" if max(map(len, names), default=1) == 1 else " ").join(words)

    return predict


def _note(sentence: str) -> None:
    print(f"note: {printable(sentence)}", file=sys.stderr)
