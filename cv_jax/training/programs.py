"""The jitted programs of a training: one update, or several (`config.steps_per_program`).

Several updates are a loop on the device over batches of a split in device memory. The host only
starts programs and sends the indices of their examples. A program ends at the next update with a
metric line, an evaluation, a checkpoint or a limit of a trace, so all of them happen as with single
updates. The number of updates is an argument: all programs of a run are one compiled program, and
where they begin and end changes no bit. XLA may round the body of a loop otherwise than the program
of a single update; therefore the field is a result field.

`experiment` is a `training.experiment.Experiment`.
"""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from cv_jax.data import resident
from cv_jax.devices import mesh as meshes
from cv_jax.devices import partition
from cv_jax.models import precision
from cv_jax.training import step
from cv_jax.training.gradient import make_gradient
from cv_jax.training.objective import make_objective


def make_update(experiment: Any) -> tuple[Callable, tuple]:
    """Return the pure `(state, batch, *variables) → (state, metrics)`, and these variables.

    They are arguments, because a program stores a copy of its constants.
    """
    e, teach, variables = experiment, None, ()
    if e.teacher is not None:
        gather = partition.gathering(e.config, e.mesh, e.teacher.variables)
        shardings = partition.stored(e.config, e.mesh, e.teacher.variables)
        variables = (meshes.put(e.teacher.variables, shardings),)

        def teach(variables, images):
            return e.teacher.apply(gather(variables), images)

    objective = make_objective(e.config, e.model)
    gather_params = partition.gathering(e.config, e.mesh, e.abstract_state.params)

    def read(params):
        # bfloat16 before they are gathered: half of the communication.
        return gather_params(precision.as_read(e.model, {"params": params})["params"])

    function = step.make_train_step(
        e.config,
        make_gradient(
            e.config,
            e.mesh,
            lambda params, *rest: objective(read(params), *rest),
            e.optimiser,
            teach,
        ),
        e.optimiser,
        e.augmentation,
        e.num_classes,
        max(1, e.every("log.every")),
    )
    return function, variables


def make_train_step(experiment: Any, nested: bool = False) -> Callable:
    """Return the jitted `(state, batch) → (state, metrics)`; the state is donated.

    `nested` is for a part of another jitted program, which can have no options of its own.
    """
    function, variables = make_update(experiment)
    jitted = _jitted(experiment, function, nested)
    if not variables:
        return jitted

    def with_variables(state, batch):
        return jitted(state, batch, *variables)

    with_variables.lower = lambda state, batch: jitted.lower(state, batch, *variables)
    return with_variables


def make_program(experiment: Any, take: Callable) -> Callable:
    """Return the jitted `(state, split, plan, count) → (state, metrics)`; the state is donated.

    It makes `count` updates, or fewer: none follows a loss that is not finite. The metrics are
    those of the last update made, with its number as `step`.

    Args:
      experiment: the parts of the run.
      take: `(split, plan, row) → batch`; see `resident.taking`.
    """
    function, variables = make_update(experiment)
    over_batch = meshes.over_batch(experiment.mesh)
    stored = jax.tree.map(lambda leaf: leaf.sharding, experiment.abstract_state)

    def program(state, split, plan, count, *variables):
        def update(row, state):
            batch = take(split, plan, row)
            batch = jax.lax.with_sharding_constraint(batch, over_batch)
            state, metrics = function(state, batch, *variables)
            return jax.lax.with_sharding_constraint(state, stored), metrics

        def goes_on(carry):
            row, _, metrics = carry
            return (row < count) & jnp.isfinite(metrics["loss"])

        def body(carry):
            row, state, _ = carry
            return row + 1, *update(row, state)

        blank = jax.tree.map(
            lambda leaf: jnp.zeros(leaf.shape, leaf.dtype),
            jax.eval_shape(update, jnp.int32(0), state)[1],
        )
        _, state, metrics = jax.lax.while_loop(goes_on, body, (jnp.int32(0), state, blank))
        return state, {**metrics, "step": state.step}

    jitted = _jitted(experiment, program)
    return lambda *arguments: jitted(*arguments, *variables)


def _jitted(experiment, function, nested=False):
    state, mesh = experiment.abstract_state, experiment.mesh
    shardings = jax.tree.map(lambda leaf: leaf.sharding, state), meshes.replicated(mesh)
    options = None if nested else experiment.compiler_options or None
    return jax.jit(function, donate_argnums=0, out_shardings=shardings, compiler_options=options)


def runs(experiment: Any, start_step: int) -> Iterator[tuple[int, Callable, tuple]]:
    """Yield the runs of jitted programs from `start_step` to the end of the training.

    Yields:
      `(last, program, arguments)`: `program(state, *arguments)` returns the state after update
      `last`, and the metrics of this update.
    """
    if experiment.config.steps_per_program == 1:
        train_step, batches = experiment.train_step(), experiment.train_batches(start_step)
        for last in range(start_step + 1, experiment.total_steps + 1):
            yield last, train_step, (next(batches),)
        return
    batches = experiment.train_source()
    split = resident.put(experiment.mesh, batches)
    program = make_program(experiment, resident.taking(batches))
    parts = spans(experiment, start_step)
    rows = min(experiment.config.steps_per_program, experiment.total_steps)
    plans = resident.plans(experiment.mesh, batches, parts, rows)
    for (first, last), plan in zip(parts, plans, strict=True):
        yield last, program, (split, plan, jnp.int32(last - first))


def spans(experiment: Any, start_step: int) -> list[tuple[int, int]]:
    """Return the updates of each program as (first, last): first are made before it, last after."""
    config, total = experiment.config, experiment.total_steps
    intervals = [experiment.every(name) for name in ("log.every", "checkpoint.every")]
    intervals += [evaluation.every for evaluation in experiment.evaluations]
    profile = config.profile.start_step, config.profile.start_step + config.profile.num_steps
    found, first = [], start_step
    while first < total:
        ends = [(first // every + 1) * every for every in intervals if every]
        ends += [end for end in profile if end > first]
        last = min(first + config.steps_per_program, total, *ends)
        found.append((first, last))
        first = last
    return found
