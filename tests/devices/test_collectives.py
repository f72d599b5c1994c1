"""Collectives of programs with known communication, and of training steps."""

import functools

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec as P
from slow import slow_except

from cv_jax.devices import mesh as meshes
from cv_jax.devices.collectives import Collective, collectives
from cv_jax.training import experiment

ROWS = P("data")


def compiled(function, devices=8, shape=(64, 32), out_specs=ROWS, model=1):
    mesh = meshes.make_mesh(devices, model)
    local = jax.shard_map(
        function, mesh=mesh, in_specs=P("data"), out_specs=out_specs, check_vma=False
    )
    x = jax.ShapeDtypeStruct(shape, jnp.float32, sharding=meshes.over_batch(mesh))
    return collectives(jax.jit(local).lower(x).compile().as_text())


def test_each_kind():
    """Each of eight devices holds 1024 of the 8192 bytes of [64, 32] floats."""
    over = functools.partial
    cases = [
        (over(jax.lax.psum, axis_name="data"), P(), Collective("all-reduce", 1024, 8, 1)),
        (
            over(jax.lax.all_gather, axis_name="data", tiled=True),
            P(),
            Collective("all-gather", 8192, 8, 1),
        ),
        (
            over(jax.lax.psum_scatter, axis_name="data", tiled=True),
            P("data"),
            Collective("reduce-scatter", 1024, 8, 1),
        ),
        (
            over(jax.lax.ppermute, axis_name="data", perm=[(i, (i + 1) % 8) for i in range(8)]),
            P("data"),
            Collective("collective-permute", 1024, 2, 1),
        ),
    ]
    for function, out_specs, expected in cases:
        assert compiled(function, out_specs=out_specs) == [expected]
    (exchange,) = compiled(lambda x: jax.lax.all_to_all(x, "data", 0, 0, tiled=True))
    assert (exchange.kind, exchange.payload, exchange.group) == ("all-to-all", 1024, 8)


def test_bytes_sent_in_a_ring():
    assert Collective("all-reduce", 800, 8, 1).sent == 2 * 7 * 100
    assert Collective("all-gather", 800, 8, 3).sent == 3 * 7 * 100
    assert Collective("reduce-scatter", 800, 8, 1).sent == 7 * 100
    assert Collective("collective-permute", 800, 2, 1).sent == 800


def test_loop_iterations_and_groups():
    def function(x):
        turn = lambda carry, _: (jnp.sin(jax.lax.psum(carry, "model")), None)  # noqa: E731
        return jax.lax.scan(turn, x, None, length=5)[0]

    found = compiled(function, model=2)
    assert sum(collective.runs for collective in found) == 5
    assert {(c.kind, c.payload, c.group) for c in found} == {("all-reduce", 2048, 2)}


def test_one_device_sends_nothing():
    assert compiled(lambda x: jax.lax.psum(x, "data"), devices=1, out_specs=P()) == []


@pytest.mark.parametrize("devices", slow_except([1, 2, 4, 8], "4"))
@pytest.mark.parametrize("params", ["replicated", "fsdp"])
def test_a_training_step_sends_the_minimum(load_config, devices, params):
    """Data parallelism reduces the gradients; FSDP also gathers each split parameter once.

    XLA on a CPU compiles a sharded sum to an all-reduce and a slice, not to a reduce-scatter as on
    GPUs and TPUs.
    """
    fields = {"mesh.devices": devices, "mesh.params": params, "mesh.fsdp_min_size": 256}
    parts = experiment.build(load_config("mlp", {"batch_size": 32, "total_steps": 2, **fields}))
    state = parts.abstract_state
    batch = next(parts.train_batches(0))
    found = collectives(parts.train_step().lower(state, batch).compile().as_text())
    if devices == 1:
        assert found == []
        return
    payload = {"all-reduce": 0, "all-gather": 0}
    for collective in found:
        assert collective.group == devices
        payload[collective.kind] += collective.runs * collective.payload
    leaves = jax.tree.leaves(state.params)
    split = [leaf for leaf in leaves if any(leaf.sharding.spec)]
    assert bool(split) == (params == "fsdp")
    gradients, gathered = (sum(4 * leaf.size for leaf in group) for group in (leaves, split))
    assert payload["all-gather"] == gathered
    # The other reduced values are the loss and the metric sums.
    assert gradients <= payload["all-reduce"] <= gradients + 64
