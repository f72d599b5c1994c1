"""`python -m cv_jax templates RUN`: draws the templates of a linear classifier.

For each class, the picture shows the average of its training images, the deviation from the average
of all classes, and the weights as an image. The cosines of templates and averages are printed.
"""

from pathlib import Path

import numpy as np

from cv_jax import paths
from cv_jax.commands import option_types
from cv_jax.errors import InputError, Parser, printable


def main(arguments: list[str]) -> int:
    """Write the picture, and print the cosine of each template with the class averages.

    Raises:
      InputError: RUN is not the run of a linear classifier, its data do not exist, or the file
        exists.
    """
    parser = Parser(prog="python -m cv_jax templates", description=__doc__)
    parser.add_argument(
        "run", type=option_types.path, metavar="RUN", help="run directory of a linear classifier"
    )
    parser.add_argument(
        "--out", type=option_types.path, help="file to write (default: RUN/templates.png)"
    )
    parser.add_argument("--dir", help="folder of prepared datasets, as config.data.dir")
    parser.add_argument("--force", action="store_true", help="overwrite the file")
    options = parser.parse_args(arguments)
    out = options.out or options.run / "templates.png"
    if options.run.is_dir() or options.out:
        paths.require_new_file(out, "--out", options.force)

    from cv_jax import config as configs
    from cv_jax.data import splits
    from cv_jax.inspect import templates
    from cv_jax.interop import pretrained
    from cv_jax.interop.disk import replacing

    run = pretrained.read_run(options.run)
    if run.weights.model != "linear":
        raise InputError(
            f"{options.run} is a run of {run.weights.model}; only linear has templates"
        )
    config = configs.restore(run.config)
    if options.dir is not None:
        config.data.dir = options.dir
    source = splits.open_train(config)
    _check_data(options.run, config.data.name, source.fingerprint)
    names = run.weights.class_names or source.classes or tuple(map(str, range(source.num_classes)))
    pixels, labels = _training_images(config, source, names)
    kernel = np.asarray(run.weights.variables["params"]["head"]["kernel"])
    found = templates.compare(kernel, config.data.std, pixels, labels)

    figure = templates.figure(found, names)
    formats = figure.canvas.get_supported_filetypes()
    suffix = out.suffix.removeprefix(".").lower() or "png"
    if suffix not in formats:
        raise InputError(f"--out={out} must end in one of {', '.join(f'.{f}' for f in formats)}")
    with replacing(out) as scratch:
        figure.savefig(scratch, format=suffix)
    cosines = templates.correlations(found)
    own, best = np.diag(cosines), cosines.argmax(axis=1)
    for i, name in enumerate(names):
        nearest = printable(names[best[i]])
        print(f"{printable(name):16} {own[i]:+.3f} with its average; nearest average: {nearest}")
    right = int((best == np.arange(len(names))).sum())
    print(
        f"{printable(str(out))}: {right} of {len(names)} templates are nearest to the average of "
        f"their class, mean cosine {own.mean():+.3f}"
    )
    return 0


def _check_data(path: Path, name: str, fingerprint: dict) -> None:
    """Check that the data are those of the training; others have other averages and classes."""
    from cv_jax.run import identity, json_files, workdir

    try:
        starts = workdir.read_starts(path)
    except FileNotFoundError:
        raise InputError(f"{path}/run.json, which identifies its data, is missing") from None
    except json_files.Damaged as error:
        raise InputError(f"{path}/run.json is damaged: {error}") from None
    lines = identity.other_data(starts, {"train": fingerprint})
    if lines:
        raise InputError(f"{path} was not trained on {name} as it is now: {'; '.join(lines)}")


def _training_images(config, source, names):
    """Return the training images as the model gets them without augmentation.

    Returns:
      Pixels uint8 [N, H, W, C], and labels [N].
    """
    from cv_jax.data import pipeline
    from cv_jax.evaluation import plan

    operations = plan.preprocessing(
        config.eval_preprocess, config.image_size, "config.eval_preprocess"
    )
    if operations.test:
        raise InputError("config.eval_preprocess has test-time views; averages need a single view")
    pixels, labels = pipeline.prepare(source, operations.fixed, "memory").cached
    missing = set(range(source.num_classes)) - set(labels.tolist())
    if missing:
        raise InputError(f"class {names[min(missing)]!r} has no training image and no average")
    return pixels, labels
