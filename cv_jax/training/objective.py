"""The training objective: what the training step differentiates, and its metrics."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections

from cv_jax import tasks
from cv_jax.tasks.batch import fold_views


def make_objective(config: ml_collections.ConfigDict, model: nn.Module) -> Callable:
    """What the training step differentiates.

    Returns:
      `(params, state, batch, rngs) → (loss, (metric sums, state))`, with `state` the model's other
      collections (such as running statistics); see `Task` for the batch.
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
    """Sums over the examples that a mask [B] of 0 and 1 keeps; counts are integers.

    `correct` is among them if `right` [B] says which answers were right.
    """
    sums = {"loss": jnp.sum(loss * mask), "count": jnp.sum(mask > 0, dtype=jnp.int32)}
    if right is not None:
        sums["correct"] = jnp.sum(right & (mask > 0), dtype=jnp.int32)
    return sums


def metrics_of(sums: dict[str, Any]) -> dict[str, float]:
    """Means from the sums of `metric_sums`.

    Returns:
      `loss` (mean) and the integer `count` of examples; where answers are right or wrong, also
      `accuracy` and the integer `correct`.
    """
    count = int(sums["count"])
    metrics = {"loss": float(sums["loss"]) / count}
    if "correct" in sums:
        metrics["accuracy"] = int(sums["correct"]) / count
        metrics["correct"] = int(sums["correct"])
    return {**metrics, "count": count}
