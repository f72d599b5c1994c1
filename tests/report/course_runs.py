"""Sweep directories of chapters of the course, written without training."""

import sweeps

from cv_jax.course import run


def write(out, study, accuracies, dataset="digits"):
    """Write finished trials of a study.

    Args:
      out: folder of the course.
      study: the study.
      accuracies: function (values of a point, seed) → (test accuracy, accuracy on the training
        images), or `None` for a trial that has not begun.
      dataset: name of the dataset.
    """
    place = out / "runs"
    wanted = run.sweep_of(study, dataset, place, study.seeds).points
    values = [{**point.arguments, **point.overrides} for point in wanted]
    for point, own in zip(sweeps.write(place / study.name, values), values, strict=True):
        found = accuracies(own, own["seed"])
        if found is not None:
            test, train = found
            config = {"data.name": dataset}
            more = [("train_eval", train)]
            sweeps.finish(place / study.name, point, test, config=config, more=more)
