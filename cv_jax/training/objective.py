"""The training objective and its metric sums."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections

from cv_jax import tasks
from cv_jax.tasks.batch import fold_views


def make_objective(config: ml_collections.ConfigDict, model: nn.Module) -> Callable:
    """Return the function that the training step differentiates.

    Returns:
      `(params, state, batch, rngs) → (loss, (metric sums, state))`. `state` has the model's other
      collections, such as running statistics; see `Task` for the batch.
    """
    task = tasks.make_task(config, model)

    def compute(params, state, batch, rngs):
        batch = fold_views(batch)
        output, state = model.apply(
            {"params": params, **state},
            *task.inputs(batch, rngs),
            train=True,
            rngs=rngs,
            mutable=list(state),
        )
        loss, right = task.score(output, batch)
        return loss.mean(), (metric_sums(loss, right, jnp.ones(len(loss))), state)

    return compute


def metric_sums(loss: jax.Array, right: jax.Array | None, mask: jax.Array) -> dict[str, jax.Array]:
    """Return sums over the examples with mask 1; the mask [B] is 0 or 1, counts are integers.

    The sums are `loss`, `count` and, if `right` [B] marks correct predictions, `correct`.
    """
    sums = {"loss": jnp.sum(loss * mask), "count": jnp.sum(mask > 0, dtype=jnp.int32)}
    if right is not None:
        sums["correct"] = jnp.sum(right & (mask > 0), dtype=jnp.int32)
    return sums
