"""Pictures of evaluations, and of the end of a run, for the metric writers."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from cv_jax.augment.batch import to_pixels
from cv_jax.devices import processes
from cv_jax.errors import one_line
from cv_jax.evaluation.kind import Scores
from cv_jax.evaluation.step import make_forward
from cv_jax.inspect import reconstruction
from cv_jax.interop.disk import replacing
from cv_jax.run.writers import picture_file
from cv_jax.training.experiment import Experiment
from cv_jax.training.first_batch import first_batch

SHOWN = 12  # images of the training batch; twice as many errors


def make_reconstruct(config, model) -> Callable:
    """Return the pure function `(variables, batch) → (images [B, H, W, C], Reconstruction)`."""
    forward = make_forward(config, model)

    def step(variables, batch):
        (prediction, features), batch = forward(variables, batch)
        images = batch["image"]
        return images, reconstruction.compare(model, images, prediction, features["mask"])

    return step


def make_draw(
    experiment: Experiment,
    workdir: Path,
    guard: Callable[[], None] = lambda: None,
    say: Callable[[str], None] = print,
) -> Callable[[int, Any, Mapping[str, Scores]], list[Path]]:
    """Return `(step, variables, scores of the evaluations by name) → files`, which draws pictures.

    With `config.eval.pictures`, each call with scores draws the reconstructions of the first test
    images; their masks are those of the evaluation, the same each time. With `config.log.writers`,
    the last step has what the report of a run shows: the first training batch as the step sees it,
    and of a classifier the confusion matrix and the most confident errors of the run's own
    evaluation. Only the first process draws.

    Args:
      experiment: the parts of the run.
      workdir: the run directory; for the files see `run.writers.picture_file`.
      guard: called before a file is written; see `run.lock.Claim.check`.
      say: prints a message for the user.
    """
    config = experiment.config
    reconstructions = _make_reconstructions(experiment) if config.eval.pictures else None

    def draw(step, variables, scores):
        files = []
        if reconstructions is not None and scores:
            figure = reconstructions(step, variables)
            if figure is not None:
                files.append(_write(figure, picture_file(workdir, step), guard))
        if config.log.writers and step == experiment.total_steps and processes.is_main():
            own = scores[experiment.evaluations[0].name]
            files += _draw_end(experiment, workdir, own, guard, say)
        return files

    return draw


def _make_reconstructions(experiment) -> Callable[[int, Any], Any]:
    """Return `(step, variables) → figure`; `None` in all processes but the first."""
    reconstruct = experiment.evaluation_step(make_reconstruct)
    images = experiment.evaluations[0].images
    batch = next(iter(experiment.eval_batches(images)))
    count = min(experiment.config.eval.pictures, len(images.source))

    def draw(step, variables):
        originals, found = jax.tree.map(
            lambda x: np.asarray(x)[:count], reconstruct(variables, batch)
        )
        if not processes.is_main():
            return None
        from cv_jax.inspect.look.reconstruction import draw, in_words

        pixels = [to_pixels(experiment.config, x) for x in (originals, found.image)]
        figure = draw(*pixels, found, [f"test {i}" for i in range(len(originals))])
        figure.suptitle(f"Step {step}: {in_words(found)}")
        return figure

    return draw


def _draw_end(experiment, workdir, scores, guard, say) -> list[Path]:
    """Draw the end of a run; a picture that fails is one message, and never stops the run."""
    files = []
    for name, draw in (("batch", _batch), ("confusion", _confusion), ("mistakes", _mistakes)):
        try:
            figure = draw(experiment, scores)
            if figure is not None:
                file = picture_file(workdir, experiment.total_steps, name)
                files.append(_write(figure, file, guard))
        except Exception as error:
            say(f"log.writers: no picture of {name}; {one_line(error, 300)}")
    return files


def _batch(experiment, scores):
    images = experiment.train_images
    if images.source.kind != "image":
        return None
    from cv_jax.inspect.look import errors

    config, augmentation = experiment.config, experiment.augmentation
    seen, note = first_batch(config, images, augmentation, experiment.classes, SHOWN)
    pictures = []
    for image in seen:
        labels = image.labels if len(image.labels) == len(image.views) else image.labels[:1]
        labels = labels * (len(image.views) // len(labels))
        pictures.append((image.original, image.name))
        pictures += [(view, f"step: {x}") for view, x in zip(image.views, labels, strict=True)]
    title = "The first images of the first training batch, and the input of the step"
    return errors.sheet(pictures, f"{title}. {note}".strip())


def _confusion(experiment, scores):
    if "confusion_matrix" not in scores.details:
        return None
    from cv_jax.inspect.look import confusion

    matrix = np.array(scores.details["confusion_matrix"])
    return confusion.draw(matrix, _names(experiment, len(matrix)))


def _mistakes(experiment, scores):
    found = scores.predictions
    wrong = np.flatnonzero(found["rank"] > 0) if found else ()
    images = experiment.evaluations[0].images
    if not len(wrong) or images.source.kind != "image":
        return None
    from cv_jax.inspect.look import errors

    order = wrong[np.argsort(-found["confidence"][wrong], kind="stable")][: 2 * SHOWN]
    names = _names(experiment, int(max(found["label"].max(), found["prediction"].max())) + 1)
    pictures = [
        (
            np.asarray(images.get(int(i))[0]),
            f"{names[found['prediction'][i]]} {found['confidence'][i]:.1%}\n"
            f"true: {names[found['label'][i]]}",
        )
        for i in order
    ]
    return errors.sheet(pictures, f"The {len(order)} most confident of {len(wrong)} mistakes")


def _names(experiment, count: int) -> list[str]:
    """Return the names of classes; numbers where they have none."""
    names = experiment.classes[:count]
    return [*names, *map(str, range(len(names), count))]


def _write(figure, file: Path, guard: Callable[[], None]) -> Path:
    with replacing(file) as scratch:
        figure.savefig(scratch, format="png")
        guard()
    return file
