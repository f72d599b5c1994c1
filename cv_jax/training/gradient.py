"""The gradient of a batch: at once, in parts one after the other, or on each device for itself."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
from jax.sharding import Mesh

from cv_jax.devices import mesh as meshes
from cv_jax.optim.optimisers import Optimiser
from cv_jax.tasks.batch import fold_views


def make_gradient(
    config: ml_collections.ConfigDict,
    mesh: Mesh,
    objective: Callable,
    optimiser: Optimiser,
    teacher: Callable | None = None,
) -> Callable:
    """`(batch, params, model_state, sums, rngs, teacher_variables) → ((loss, (sums, model_state)),
    gradients)`, pure.

    `params` are a pair, the trained and the frozen; gradients are those of the trained. The `sums`
    given are an example of the form of those returned.

    With `optim.accumulate_steps` of n the batch is cut into n parts, whose gradients are averaged:
    the update is that of the whole batch. What cannot be equal is what a part sees of itself only:
    batch normalisation (the statistics of each part, and n updates of the running ones, as in
    PyTorch), and masks of dropout and stochastic depth, which are drawn anew for each part. Part k
    is every n-th example from k on, so that on sharded batches each device cuts its own rows. The
    parts are a loop, of which one turn is in memory at a time. On CPUs the loop is unrolled, for
    there XLA's convolutions are many times slower inside one; parts in one program save next to no
    memory, though.

    With `mesh.step=pmap` every device works on its own rows of the batch: its batch normalisation
    sees no others, and its dropout masks are its own. Loss, gradients and running statistics are
    the means over the devices.

    Args:
      config: the run's config.
      mesh: the devices.
      objective: see `losses.objective`.
      optimiser: which parameters are trained.
      teacher: `(its variables, images) → logits`; see teacher.py.
    """
    parts = config.optim.accumulate_steps

    def whole(batch, params, model_state, sums, rngs, teacher_variables):
        if teacher is not None:
            batch = fold_views(batch)
            batch = {**batch, "teacher": teacher(teacher_variables, batch["image"])}
        trained, frozen = params

        def loss_of(trained):
            return objective(optimiser.join(trained, frozen), model_state, batch, rngs)

        return jax.value_and_grad(loss_of, has_aux=True)(trained)

    def in_parts(batch, params, model_state, sums, rngs, teacher_variables):
        def accumulate(carry, part):
            (loss, (total, model_state)), grads = carry
            index, rows = part
            own = {**rngs, "dropout": jax.random.fold_in(rngs["dropout"], index)}
            (new_loss, (new, model_state)), new_grads = whole(
                rows, params, model_state, sums, own, teacher_variables
            )
            grads = jax.tree.map(lambda old, g: old + g / parts, grads, new_grads)
            loss, total = loss + new_loss / parts, jax.tree.map(jnp.add, total, new)
            return ((loss, (total, model_state)), grads), None

        rows = jax.tree.map(lambda x: _every(x, parts), batch)
        loss, total, grads = jax.tree.map(jnp.zeros_like, (jnp.float32(0), sums, params[0]))
        result, _ = jax.lax.scan(
            accumulate,
            ((loss, (total, model_state)), grads),
            (jnp.arange(parts), rows),
            unroll=parts if jax.default_backend() == "cpu" else 1,
        )
        return result

    of_rows = whole if parts == 1 else in_parts

    def on_each_device(batch, params, model_state, sums, rngs, teacher_variables):
        own = {**rngs, "dropout": jax.random.fold_in(rngs["dropout"], jax.lax.axis_index("data"))}
        (loss, (sums, model_state)), grads = of_rows(
            batch, params, model_state, sums, own, teacher_variables
        )
        loss, model_state, grads = jax.lax.pmean((loss, model_state, grads), "data")
        return (loss, (jax.lax.psum(sums, "data"), model_state)), grads

    return of_rows if config.mesh.step == "jit" else meshes.per_device(mesh, on_each_device)


def _every(x: jax.Array, n: int) -> Any:
    """[B, …] → [n, B/n, …]: part k holds rows k, k + n, k + 2n, …"""
    return x.reshape(len(x) // n, n, *x.shape[1:]).swapaxes(0, 1)
