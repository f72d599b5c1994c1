"""`--dry_run`: shapes, parameters, multiply-adds, memory and communication of a run."""

import math

import jax

from cv_jax.devices.collectives import collectives
from cv_jax.optim import parameter_rules
from cv_jax.training.experiment import Experiment


def describe(experiment: Experiment) -> None:
    """Compile the training step and print the sizes of the run; train nothing."""
    config, state = experiment.config, experiment.abstract_state
    treatments = parameter_rules.treatments(config, experiment.model, state.params)
    for path, leaf in jax.tree_util.tree_leaves_with_path(state.params):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        split = f" split {tuple(leaf.sharding.spec)}" if any(leaf.sharding.spec) else ""
        treatment = parameter_rules.describe(treatments[name])
        print(f"{name:48} {str(leaf.shape):24} {leaf.dtype}  {treatment}{split}".rstrip())
    parameters, adds = experiment.sizes
    mesh = dict(experiment.mesh.shape)
    shape = " x ".join(f"{axis} {size}" for axis, size in mesh.items() if size > 1)
    platform = jax.devices()[0].platform
    print(f"parameters           {parameters:,}")
    print(f"multiply-adds/image  {adds:,}")
    print(f"steps                {experiment.total_steps:,} of {config.batch_size} examples")
    print(f"devices              {experiment.mesh.size} {platform}{shape and f', {shape}'}")

    batch = next(experiment.train_batches(0))
    compiled = experiment.train_step().lower(state, batch).compile()
    memory = compiled.memory_analysis()
    if memory is not None:
        used = memory.argument_size_in_bytes + memory.temp_size_in_bytes
        held = bytes_per_device(state)
        print(
            f"memory/device        {used / 2**20:,.0f} MiB: {held / 2**20:,.1f} MiB of state; the "
            "rest is batch, activations and gradients"
        )
    sent: dict[str, list[float]] = {}
    for collective in collectives(compiled.as_text()):
        count, total = sent.get(collective.kind, (0, 0.0))
        sent[collective.kind] = [count + collective.runs, total + collective.sent]
    for kind, (count, total) in sent.items():
        print(f"{kind:20} {count} a step, {total / 2**20:,.1f} MiB sent by each device")


def bytes_per_device(tree) -> int:
    """Return the bytes of a tree of arrays, or of shapes with shardings, on one device."""
    leaves = jax.tree.leaves(tree)
    shards = [(leaf.sharding.shard_shape(leaf.shape), leaf.dtype.itemsize) for leaf in leaves]
    return sum(size * math.prod(shape) for shape, size in shards)
