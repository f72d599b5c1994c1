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
from cv_jax.interop.disk import replacing
from cv_jax.run.record import PICTURES
from cv_jax.training.experiment import Experiment


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
) -> Callable[[int, Any], Path | None]:
    """Return `(step, variables) → path`, which writes the picture `WORKDIR/pictures/STEP.png`.

    The images are the first `config.eval.pictures` test images; their masks are those of the
    evaluation, the same each time. Without the field, and in all processes but the first, there is
    no picture, and the path is `None`. `guard` is called before a file is written; see
    `run.lock.Claim.check`.
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
            return None
        from cv_jax.inspect.look.reconstruction import draw, in_words

        pixels = [to_pixels(experiment.config, x) for x in (originals, found.image)]
        figure = draw(*pixels, found, [f"test {i}" for i in range(len(originals))])
        figure.suptitle(f"Step {step}: {in_words(found)}")
        file = workdir / PICTURES / f"{step:08d}.png"
        with replacing(file) as scratch:
            figure.savefig(scratch, format="png")
            guard()
        return file

    return draw
