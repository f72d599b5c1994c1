"""The gradient of a batch: at once, accumulated over micro-batches, or per device."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
from jax.sharding import Mesh

from cv_jax.devices import mesh as meshes
from cv_jax.models.layers import at_least_float32
from cv_jax.optim.optimisers import Optimiser
from cv_jax.tasks.batch import fold_views


def make_gradient(
    config: ml_collections.ConfigDict,
    mesh: Mesh,
    objective: Callable,
    optimiser: Optimiser,
    teacher: Callable | None = None,
) -> Callable:
    """Return the gradient function of the training step, pure.

    It maps `(batch, params, model_state, sums, rngs, teacher_variables)` to `((loss, (sums,
    model_state)), gradients)`. `params` is the pair (trained, frozen); gradients are of the trained
    parameters, at least float32, and so are their averages. The argument `sums` gives the shapes
    and dtypes of the returned metric sums.

    With `optim.accumulate_steps=n` the batch is split into n micro-batches, whose gradients are
    averaged: the update equals that of the whole batch, except that batch-norm statistics and the
    masks of dropout and stochastic depth differ per micro-batch. Running statistics get n updates,
    as in PyTorch. Micro-batch k has the examples k, k + n, k + 2n, …, so each device splits its own
    rows of a sharded batch. A loop keeps the activations of only one micro-batch in memory. On CPUs
    the loop is unrolled, because XLA's convolutions are many times slower inside a loop; this saves
    little memory.

    With `mesh.step=pmap` each device computes on its own rows: batch-norm statistics and dropout
    masks differ per device; loss, gradients and running statistics are averaged over the devices.

    Args:
      config: the run's config.
      mesh: the devices.
      objective: see `objective.make_objective`.
      optimiser: joins trained and frozen parameters.
      teacher: `(teacher variables, images) → logits`; see teacher.py.
    """
    count = config.optim.accumulate_steps

    def whole(batch, params, model_state, sums, rngs, teacher_variables):
        if teacher is not None:
            batch = fold_views(batch)
            batch = {**batch, "teacher": teacher(teacher_variables, batch["image"])}
        trained, frozen = params

        def loss_of(trained):
            return objective(optimiser.join(trained, frozen), model_state, batch, rngs)

        result, grads = jax.value_and_grad(loss_of, has_aux=True)(trained)
        return result, jax.tree.map(at_least_float32, grads)

    def over_micro_batches(batch, params, model_state, sums, rngs, teacher_variables):
        def accumulate(carry, micro_batch):
            (loss, (total, model_state)), grads = carry
            index, rows = micro_batch
            own = {**rngs, "dropout": jax.random.fold_in(rngs["dropout"], index)}
            (new_loss, (new, model_state)), new_grads = whole(
                rows, params, model_state, sums, own, teacher_variables
            )
            grads = jax.tree.map(lambda old, g: old + g / count, grads, new_grads)
            loss, total = loss + new_loss / count, jax.tree.map(jnp.add, total, new)
            return ((loss, (total, model_state)), grads), None

        rows = jax.tree.map(lambda x: _micro_batches(x, count), batch)
        wide = jax.tree.map(at_least_float32, params[0])
        loss, total, grads = jax.tree.map(jnp.zeros_like, (jnp.float32(0), sums, wide))
        result, _ = jax.lax.scan(
            accumulate,
            ((loss, (total, model_state)), grads),
            (jnp.arange(count), rows),
            unroll=count if jax.default_backend() == "cpu" else 1,
        )
        return result

    of_rows = whole if count == 1 else over_micro_batches

    def on_each_device(batch, params, model_state, sums, rngs, teacher_variables):
        own = {**rngs, "dropout": jax.random.fold_in(rngs["dropout"], jax.lax.axis_index("data"))}
        (loss, (sums, model_state)), grads = of_rows(
            batch, params, model_state, sums, own, teacher_variables
        )
        loss, model_state, grads = jax.lax.pmean((loss, model_state, grads), "data")
        return (loss, (jax.lax.psum(sums, "data"), model_state)), grads

    return of_rows if config.mesh.step == "jit" else meshes.per_device(mesh, on_each_device)


def _micro_batches(x: jax.Array, n: int) -> Any:
    """Reshape [B, …] to [n, B/n, …]; micro-batch k has the rows k, k + n, k + 2n, …"""
    return x.reshape(len(x) // n, n, *x.shape[1:]).swapaxes(0, 1)
