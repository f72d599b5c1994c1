"""`python -m cv_jax predict MODEL IMAGE…`: predicts the classes of image files.

A model that writes sequences predicts the sequence of the classes in an image.

MODEL is a run directory, a file of `python -m cv_jax convert`, a folder in the Hub's layout, or
hf-hub:OWNER/NAME. IMAGE is a file, a folder, which is searched with its subfolders, or a quoted
pattern such as "photos/**/*.png".

Images are preprocessed as in the evaluation of MODEL, with its test-time views. Names of classes,
normalisation and preprocessing are those that MODEL records. A file that cannot be read is skipped
with a line on standard error; after the predictions for all other files the exit code is 2.

With --explain gradcam every image gets a picture in --out: the image, and where the evidence for
its most probable class is.
"""

import argparse
import csv
import itertools
import json
import pathlib
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from cv_jax import paths, tasks
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
    draw = None
    if options.explain:
        predict, draw = _explained(net, predict, options.out, options.force)
    results = _results(_loader(net, options.max_pixels), predict, files, net.config)
    write = _line_writer(options)
    # On a terminal, the lines themselves show the progress.
    shown = files if sys.stdout.isatty() else counted(files, "classifying images")
    skipped = 0
    for number, (file, found) in enumerate(zip(shown, results, strict=True)):
        if isinstance(found, str):
            skipped += 1
            print(f"skipped: {printable(found)}", file=sys.stderr)
            continue
        more = {}
        if draw is not None:
            found, seen = found
            more["explanation"] = str(draw(number, file, found[0], seen))
        write(file, found, more)
        sys.stdout.flush()
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
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print one JSON object per image")
    form.add_argument("--csv", action="store_true", help="print CSV: one row per predicted class")
    parser.add_argument(
        "--explain", choices=("gradcam",), help="draw where the evidence for the class is"
    )
    parser.add_argument(
        "--out",
        type=option_types.path,
        metavar="DIR",
        help="folder of the pictures of --explain (default: explained)",
    )
    parser.add_argument("--force", action="store_true", help="overwrite pictures in --out")
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
    if options.explain is None and (options.out is not None or options.force):
        raise InputError(f"{'--out' if options.out else '--force'} needs --explain")
    options.out = options.out or pathlib.Path("explained")
    return options


def _line_writer(options: argparse.Namespace) -> Callable[[pathlib.Path, list, dict], None]:
    """Return the function that prints the predictions of one image in the chosen form."""
    table = csv.writer(sys.stdout, lineterminator="\n")

    def as_text(file, found, more):
        parts = [f"{row['name']} {row['probability']:.2%}" for row in found]
        print(printable(f"{file}: " + ", ".join(parts)))

    def as_json(file, found, more):
        line = json.dumps({"image": str(file), "predictions": found, **more})
        print(line.replace("\x7f", r"\u007f"))

    def as_csv(file, found, more):
        for rank, row in enumerate(found, 1):
            what = row["class"] if "class" in row else " ".join(map(str, row["sequence"]))
            cells = [file, rank, what, row["name"], row["probability"], *more.values()]
            table.writerow([printable(str(cell)) for cell in cells])

    if options.csv:
        columns = ["image", "rank", "class", "name", "probability"]
        table.writerow([*columns, *(["explanation"] if options.explain else [])])
    return as_json if options.json else as_csv if options.csv else as_text


def _explained(
    net: Any, predict: Callable, folder: pathlib.Path, force: bool
) -> tuple[Callable, Callable]:
    """Return `images → (predictions, what was seen) of each`, and the function that draws it.

    Raises:
      InputError: Grad-CAM does not apply to the model, or the folder holds files.
    """
    import jax

    from cv_jax.evaluation import plan
    from cv_jax.inspect.look import explanation
    from cv_jax.interop import trained

    paths.require_folder(folder, "--out")
    if not force and folder.is_dir() and any(folder.iterdir()):
        raise InputError(f"{folder} holds files; choose another --out, or add --force")
    config, variables = net.config, net.weights.variables
    if tasks.make_task(config, net.model).written is not None:
        raise InputError(f"--explain: {net.weights.model} writes sequences; only for classifiers")
    text = config.eval_preprocess
    if plan.preprocessing(text, config.image_size, "preprocessing").test:
        raise InputError("--explain needs one view of each image; give --preprocess without views")

    def inputs(images):
        zeros = np.zeros(len(images), np.int32)
        return trained.inputs(net, {"image": images, "label": zeros, "position": zeros})[0]

    size = config.image_size
    size = (size, size) if isinstance(size, int) else tuple(size)
    blank = inputs(np.zeros((1, *size, net.weights.channels), np.uint8))
    feature = explanation.explained_feature(net.model, variables, blank)

    def both(images):
        found = predict(images)
        classes = np.array([rows[0]["class"] for rows in found], np.int32)
        maps = explanation.maps(net.model, variables, inputs(images), classes, feature)
        return list(zip(found, zip(images, jax.device_get(maps), strict=True), strict=True))

    def draw(number, file, best, seen):
        folder.mkdir(parents=True, exist_ok=True)
        target = folder / f"{number:05d}-{file.stem[:40]}.png"
        title = f"{file.name}: {best['name']} {best['probability']:.1%}"
        explanation.draw(target, *seen, title, feature)
        return target

    return both, draw


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

    channels = net.weights.channels
    if channels not in (1, 3, 4):
        raise InputError(f"{net.place} has {channels} input channels; images have 1, 3 or 4")
    operations = _preprocessing(net)
    if operations.test and tasks.make_task(net.config, net.model).written is not None:
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


def _preprocessing(net: Any) -> Any:
    from cv_jax.evaluation import plan

    config = net.config
    return plan.preprocessing(
        config.eval_preprocess, config.image_size, f"preprocessing of {net.place}"
    )


def _view_weights(net: Any) -> np.ndarray | None:
    """Return the weights of the views, which do not depend on the size of an image."""
    from cv_jax.augment.views import view_weights

    size = net.config.image_size
    shape = (size, size) if isinstance(size, int) else tuple(size)
    return view_weights(_preprocessing(net).test, (*shape, net.weights.channels))


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
    view_weights = _view_weights(net)

    def predict(images):
        count = len(jax.tree.leaves(images)[0])
        zeros = np.zeros(count, np.int32)
        batch = {"image": images, "label": zeros, "position": zeros}
        if view_weights is not None:
            batch["view_weights"] = np.tile(view_weights, (count, 1))
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
