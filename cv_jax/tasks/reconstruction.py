"""Masked image modelling: predict the pixels of the removed patches."""

import jax
import ml_collections

from cv_jax.models import mae
from cv_jax.tasks.task import Task


def reconstruction(config: ml_collections.ConfigDict, model: mae.MAE) -> Task:
    """Return the task: masked image → pixels of the removed patches (He et al., 2022).

    The random stream `mask` and the position of an example determine the removed patches.
    """
    (rows, columns), _ = model.check()

    def inputs(batch, rngs):
        def noise(position):
            return jax.random.uniform(jax.random.fold_in(rngs["mask"], position), (rows * columns,))

        return batch["image"], jax.vmap(noise)(batch["position"])

    def score(output, batch):
        prediction, features = output
        given = prediction, features["mask"], model.patch_size, model.norm_pix_loss
        return mae.reconstruction_loss(batch["image"], *given), None

    return Task(inputs, score, encoder=mae.encoder(model))
