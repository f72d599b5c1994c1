"""Reconstructions of the same test images at each evaluation of a masked autoencoder."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from cv_jax.augment.batch import to_pixels
from cv_jax.devices import processes
from cv_jax.evaluation.step import make_forward
from cv_jax.inspect import reconstruction
from cv_jax.training.experiment import Experiment

FOLDER = "pictures"


def make_reconstruct(config, model) -> Callable:
    """Return the pure function `(variables, batch) → (images [B, H, W, C], Reconstruction)`."""
    forward = make_forward(config, model)

    def step(variables, batch):
        (prediction, features), batch = forward(variables, batch)
        images = batch["image"]
        return images, reconstruction.compare(model, images, prediction, features["mask"])

    return step


def make_draw(
    experiment: Experiment, workdir: Path, guard: Callable[[], None] = lambda: None
) -> Callable[[int, Any], None]:
    """Return the function `(step, variables)` that writes `WORKDIR/pictures/STEP.png`.

    The images are the first `config.eval.pictures` test images; their masks are those of the
    evaluation, the same each time. Without the field the function does nothing. `guard` is called
    before a file is written; see `run.lock.Claim.check`.
    """
    count = experiment.config.eval.pictures
    if not count:
        return lambda step, variables: None
    reconstruct = experiment.evaluation_step(make_reconstruct)
    images = experiment.evaluations[0].images
    batch = next(iter(experiment.eval_batches(images)))

    def draw(step, variables):
        originals, found = jax.tree.map(
            lambda x: np.asarray(x)[: min(count, len(images.source))], reconstruct(variables, batch)
        )
        if not processes.is_main():
            return
        from cv_jax.inspect.look.reconstruction import draw, in_words

        pixels = [to_pixels(experiment.config, x) for x in (originals, found.image)]
        figure = draw(*pixels, found, [f"test {i}" for i in range(len(originals))])
        figure.suptitle(f"Step {step}: {in_words(found)}")
        guard()
        (workdir / FOLDER).mkdir(exist_ok=True)
        figure.savefig(workdir / FOLDER / f"{step:08d}.png")

    return draw
