"""The trained network of a run and its images, as pictures and numbers of a page.

Each function needs the newest checkpoint and the data of the run; what is missing is an error that
the page shows in place of the pictures.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import numpy as np

from cv_jax import augment, tasks
from cv_jax.augment.batch import to_pixels
from cv_jax.data import pipeline, splits
from cv_jax.data.source import Source, name_of
from cv_jax.devices import compile_options
from cv_jax.errors import InputError
from cv_jax.evaluation import metrics, plan
from cv_jax.evaluation.step import make_classifier
from cv_jax.inspect import mistakes
from cv_jax.inspect.look import ANALYSES, DoesNotApply, Finding, Subject
from cv_jax.interop import trained
from cv_jax.interop.trained import Trained
from cv_jax.report.thumbnails import data_uri
from cv_jax.training.first_batch import first_batch

BATCH = 256  # images of an evaluated batch
SHOWN = 24  # images of each kind
LOOKED_AT = 4  # images that the analyses of `look` read

# Analyses of `look` on a page, in this order; the others need more images or time.
ANALYSES_SHOWN = ("filters", "positions", "attention", "reconstruction", "receptive-field")


class Picture(NamedTuple):
    """An image with its caption: data URIs, name, and lines of text below it."""

    uris: tuple[str, ...]
    name: str
    lines: tuple[str, ...]


class Predictions(NamedTuple):
    """Predicted classes of images of the evaluation split.

    Attributes:
      index: int [N], positions in the split.
      labels: int [N].
      probabilities: float32 [N, K].
      size: number of examples of the split.
    """

    index: np.ndarray
    labels: np.ndarray
    probabilities: np.ndarray
    size: int


def predict(net: Trained, source: Source, most: int) -> Predictions:
    """Predict the classes of at most `most` images, spread evenly over a split; one view of each.

    Raises:
      DoesNotApply: the network predicts no single class.
    """
    task = tasks.make_task(net.config, net.model)
    if task.class_scores is None or task.written is not None:
        raise DoesNotApply(f"{net.weights.model} does not predict one class for an image")
    index = np.arange(len(source))
    if len(source) > most:
        index = np.linspace(0, len(source) - 1, most).round().astype(int)
    classify = jax.jit(
        make_classifier(net.config, net.model, net.config.eval.average),
        compiler_options=compile_options.once(),
    )
    parts, labels = [], []
    for batch in _batches(net, source, index):
        parts.append(np.asarray(classify(net.weights.variables, batch)))
        labels.append(batch["label"])
    probabilities = np.concatenate(parts)[: len(index)]
    return Predictions(index, np.concatenate(labels)[: len(index)], probabilities, len(source))


def _batches(net: Trained, source: Source, index: np.ndarray) -> Iterator[dict[str, Any]]:
    """Yield batches of equal size of the examples at `index`; the last one is padded."""
    images, size = _images(net, source), min(BATCH, len(index))
    padded = np.concatenate([index, np.full(-len(index) % size, index[-1])])
    for start in range(0, len(padded), size):
        places = padded[start : start + size]
        with ThreadPoolExecutor(net.config.data.threads) as pool:
            examples = list(pool.map(lambda i: images.get(int(i)), places))
            pixels = list(pool.map(np.asarray, [image for image, _ in examples]))
        yield {
            "image": pipeline.stack_equal(pixels),
            "label": np.array([label for _, label in examples], np.int32),
            "position": places.astype(np.int32),
        }


def _images(net: Trained, source: Source) -> pipeline.Images:
    """Return a split with the preprocessing of the evaluation, one view of each image."""
    config = net.config
    text, field = config.eval_preprocess, "config.eval_preprocess"
    operations = plan.preprocessing(text, config.image_size, field)
    return pipeline.Images(source, operations.fixed)


def scores(found: Predictions, classes: int) -> dict[str, Any]:
    """Return the metrics of `evaluation.metrics`, with confusion matrix and reliability bins."""
    labels, index = found.labels[:, None], np.arange(found.probabilities.shape[1])
    own = np.take_along_axis(found.probabilities, labels, axis=1)
    # As in the evaluation: the first of equal classes is predicted, and nothing is right with NaN.
    beaten = (found.probabilities < own) | ((found.probabilities == own) & (index >= labels))
    predictions = {
        "label": found.labels,
        "rank": (~beaten).sum(axis=1),
        "prediction": found.probabilities.argmax(axis=1),
        "confidence": found.probabilities.max(axis=1),
    }
    details = metrics.details(predictions, classes)
    ece = metrics.calibration_error(details["reliability"])
    right = int((predictions["rank"] < 1).sum())
    return {**details, "ece": ece, "correct": right, "count": len(found.labels)}


def mistaken(net: Trained, source: Source, found: Predictions) -> tuple[list[Picture], ...]:
    """Return the most confident errors, and the images with the smallest probability."""
    wrong = mistakes.confident_mistakes(found.probabilities, found.labels, SHOWN)
    hard = mistakes.hardest(found.probabilities, found.labels, SHOWN)
    needed = sorted({found.index[example.index] for example in [*wrong, *hard]})
    if not needed:
        return [], []
    images = _images(net, source)
    pixels = {index: np.asarray(images.get(int(index))[0]) for index in needed}
    names = net.class_names()

    def named(k):
        return names[k] if k < len(names) else str(k)

    def picture(example):
        place = int(found.index[example.index])
        lines = (
            f"predicted {named(example.prediction)} with {example.confidence:.1%}",
            f"is {named(example.label)}, with {example.probability:.1%}",
        )
        return Picture(
            (data_uri(pixels[place]),), name_of(source, net.config.data.eval_split, place), lines
        )

    return [picture(x) for x in wrong], [picture(x) for x in hard]


def augmented(config: Any, classes: tuple[str, ...]) -> tuple[list[Picture], str]:
    """Return the first images of batch 0, each above the model's input, and a note.

    Raises:
      InputError: the training split cannot be opened, or has no images.
    """
    if config.data.skip_broken:
        raise InputError("with config.data.skip_broken every example would be decoded first")
    source = splits.open_train(config)
    if source.kind != "image":
        raise InputError("the examples are sequences, not images")
    augmentation = augment.parse(config.augment, image_size=config.image_size)
    images = pipeline.Images(source, augmentation.fixed)
    names = classes or source.classes or ()
    seen, note = first_batch(config, images, augmentation, names, SHOWN // 2)
    pictures = [
        Picture((data_uri(x.original), *map(data_uri, x.views)), x.name, x.labels) for x in seen
    ]
    return pictures, note


def subject(net: Trained, source: Source, count: int = LOOKED_AT) -> Subject:
    """Return the network with a few images of a split, for the analyses of `look`."""
    index = np.linspace(0, len(source) - 1, min(count, len(source))).round().astype(int)
    batch = trained.with_written(net, next(_batches(net, source, index)))
    # One program: each operation on its own would be compiled.
    images, *others = jax.jit(lambda batch: trained.inputs(net, batch))(batch)
    split = net.config.data.eval_split
    return Subject(
        model=net.model,
        variables=net.weights.variables,
        images=images,
        pixels=batch["image"],
        names=tuple(name_of(source, split, int(i)).rpartition("/")[2] for i in index),
        labels=None if batch["label"].ndim > 1 else batch["label"],
        class_names=net.class_names(),
        others=tuple(others),
        to_pixels=lambda pixels: to_pixels(net.config, pixels),
    )


def findings(looked_at: Subject, name: str) -> list[Finding]:
    """Return what an analysis of `look` finds; none where it does not apply."""
    try:
        return [finding for finding in ANALYSES[name](looked_at) if finding.figure is not None]
    except (DoesNotApply, NotImplementedError):  # a primitive without a rule
        return []
