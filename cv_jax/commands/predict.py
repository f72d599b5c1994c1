"""`python -m cv_jax predict RUN IMAGE…`: what a trained classifier says of images in files.

The images are decoded, prepared and seen as in the run's own evaluation, test-time views included.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from cv_jax.errors import InputError

_BATCH = 32  # images computed together


def main(arguments: list[str]) -> int:
    """Prints a line for each image: the likeliest classes with their probabilities.

    Raises:
      InputError: RUN is no run of a classifier, or a file is missing or no image.
    """
    parser = argparse.ArgumentParser(prog="python -m cv_jax predict", description=__doc__)
    parser.add_argument("run", type=Path, metavar="RUN", help="directory of a classifier's run")
    parser.add_argument("images", type=Path, nargs="+", metavar="IMAGE")
    parser.add_argument("--top", type=int, default=5, help="classes to print of each (default: 5)")
    parser.add_argument("--json", action="store_true", help="print a JSON object for each image")
    parser.add_argument("--dir", help="folder of prepared datasets, as config.data.dir")
    options = parser.parse_args(arguments)
    if options.top < 1:
        raise InputError(f"--top={options.top} must be at least 1")
    for file in options.images:
        if not file.is_file():
            raise InputError(f"{file}: there is no such file")

    from cv_jax import config as configs
    from cv_jax import pretrained

    run = pretrained.read_run(options.run)
    config = configs.restore(run.config)
    if options.dir is not None:
        config.data.dir = options.dir
    names = _class_names(config)
    for file, probabilities in _answers(config, run.weights, options.images, names):
        best = np.argsort(-probabilities, kind="stable")[: options.top]
        found = [(int(k), names[k] if names else str(k), float(probabilities[k])) for k in best]
        if options.json:
            keys = ("class", "name", "probability")
            answer = [dict(zip(keys, one, strict=True)) for one in found]
            print(json.dumps({"image": str(file), "predictions": answer}))
        else:
            print(f"{file}: " + ", ".join(f"{name} {p:.2%}" for _, name, p in found))
    return 0


def _class_names(config) -> tuple[str, ...] | None:
    """Those of the run's dataset; none, and a line that says so, where it is not at hand."""
    from cv_jax.data import sources

    data = config.data
    try:
        source = sources.open_source(data.name, data.eval_split, sources.data_folder(data.dir))
    except InputError as error:
        print(f"classes are numbers, for their names are not at hand: {error}", file=sys.stderr)
        return None
    return source.classes or tuple(map(str, range(source.num_classes)))


def _answers(config, weights, files, names) -> Iterator[tuple[Path, np.ndarray]]:
    """Every file with the probabilities of its classes, float32 [K]."""
    import jax

    from cv_jax import evaluators, losses, models, pretrained, step
    from cv_jax.data import decode, pipeline
    from cv_jax.data.folder import FolderRecords
    from cv_jax.data.source import Source

    classes = weights.fields.get("num_classes") or len(names or ()) or None
    model = models.create(weights.model, **pretrained.model_fields(config, classes))
    if losses.task(config, model).class_scores is None:
        raise InputError(f"{weights.origin} is a run of {weights.model}, which knows no classes")
    classify = jax.jit(step.make_classifier(config, model, config.eval.average))
    operations = evaluators.preprocessing(
        config.eval_preprocess, config.image_size, "config.eval_preprocess"
    )
    records = FolderRecords(Path(), [str(file) for file in files], np.zeros(len(files), np.int32))
    source = Source("IMAGE", records, 1, weights.channels, {})
    size = min(len(files), _BATCH)
    images = pipeline.Images(source, operations.fixed)
    batches = pipeline.EvalBatches(
        images, batch_size=size, rows=np.arange(size), views=operations.test
    )
    threads, prefetch = config.data.threads, config.data.prefetch
    loaded = pipeline.iterate(batches, workers=0, threads=threads, prefetch=prefetch)
    try:
        for batch in loaded:
            found = np.asarray(classify(weights.variables, batch))[:, :classes]
            for position, probabilities in zip(batch["position"], found, strict=True):
                if position < len(files):
                    yield files[position], probabilities
    except decode.BrokenExample as error:
        raise InputError(str(error)) from None
