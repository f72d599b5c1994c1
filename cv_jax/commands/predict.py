"""`python -m cv_jax predict RUN IMAGE…`: predicts the classes of image files.

Images are decoded, preprocessed and evaluated as in the run's own evaluation, with its test-time
views.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from cv_jax import tasks
from cv_jax.errors import InputError, Parser
from cv_jax.evaluation.step import make_classifier

_BATCH = 32  # images per batch


def main(arguments: list[str]) -> int:
    """Print one line per image: the most probable classes and their probabilities.

    Raises:
      InputError: RUN is not the run of a classifier, or a file does not exist or is not an image.
    """
    parser = Parser(prog="python -m cv_jax predict", description=__doc__)
    parser.add_argument("run", type=Path, metavar="RUN", help="run directory of a classifier")
    parser.add_argument("images", type=Path, nargs="+", metavar="IMAGE")
    parser.add_argument(
        "--top", type=int, default=5, help="classes to print per image (default: 5)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object per image")
    parser.add_argument("--dir", help="folder of prepared datasets, as config.data.dir")
    options = parser.parse_args(arguments)
    if options.top < 1:
        raise InputError(f"--top={options.top} must be at least 1")
    for file in options.images:
        if not file.is_file():
            raise InputError(f"{file}: no such file")

    from cv_jax import config as configs
    from cv_jax.interop import pretrained

    run = pretrained.read_run(options.run)
    config = configs.restore(run.config)
    if options.dir is not None:
        config.data.dir = options.dir
    names = _class_names(config)
    for file, probabilities in _predictions(config, run.weights, options.images, names):
        best = np.argsort(-probabilities, kind="stable")[: options.top]
        found = [(int(k), names[k] if names else str(k), float(probabilities[k])) for k in best]
        if options.json:
            keys = ("class", "name", "probability")
            predictions = [dict(zip(keys, entry, strict=True)) for entry in found]
            print(json.dumps({"image": str(file), "predictions": predictions}))
        else:
            print(f"{file}: " + ", ".join(f"{name} {p:.2%}" for _, name, p in found))
    return 0


def _class_names(config) -> tuple[str, ...] | None:
    """Return the class names of the run's dataset.

    Without the dataset, print a warning and return `None`.
    """
    from cv_jax.data import sources

    data = config.data
    try:
        source = sources.open_source(data.name, data.eval_split, sources.data_folder(data.dir))
    except InputError as error:
        print(
            f"class names are not available, classes are printed as numbers: {error}",
            file=sys.stderr,
        )
        return None
    return source.classes or tuple(map(str, range(source.num_classes)))


def _predictions(config, weights, files, names) -> Iterator[tuple[Path, np.ndarray]]:
    """Yield each file with its class probabilities, float32 [K]."""
    import jax

    from cv_jax import models
    from cv_jax.data import decode, pipeline
    from cv_jax.data.folder import FolderRecords
    from cv_jax.data.source import Source
    from cv_jax.evaluation import plan
    from cv_jax.interop import pretrained

    classes = weights.fields.get("num_classes") or len(names or ()) or None
    model = models.create(weights.model, **pretrained.model_fields(config, classes))
    if tasks.make_task(config, model).class_scores is None:
        raise InputError(f"{weights.origin} is a run of {weights.model}, which is not a classifier")
    classify = jax.jit(make_classifier(config, model, config.eval.average))
    operations = plan.preprocessing(
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
