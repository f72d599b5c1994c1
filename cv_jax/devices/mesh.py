"""Devices: the mesh, who holds which rows of a batch, host arrays made global, and the per-device
view."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from cv_jax.errors import InputError


def make_mesh(devices: int | None = None, model: int = 1) -> Mesh:
    """A mesh of the axes `data` and `model` over the first so many devices (all by default).

    Args:
      devices: how many.
      model: length of the axis `model`: neighbours, which are the closest to one another.

    Raises:
      InputError: there are not so many, or they can not be put up in rows of `model`.
    """
    available = jax.devices()
    count = len(available) if devices is None else devices
    if count > len(available):
        raise InputError(
            f"config.mesh.devices={count} is not possible here: there are {len(available)} devices"
        )
    if jax.process_count() > 1 and count != len(available):
        raise InputError(
            f"config.mesh.devices={count}: {jax.process_count()} processes use all of their "
            f"{len(available)} devices; leave it out"
        )
    if count % model:
        raise InputError(f"config.mesh.model={model} does not divide {count} devices")
    shape, types = (count // model, model), (AxisType.Auto,) * 2
    return jax.make_mesh(shape, ("data", "model"), types, devices=available[:count])


def over_batch(mesh: Mesh) -> NamedSharding:
    """Splits the first axis of an array over the devices."""
    return NamedSharding(mesh, PartitionSpec("data"))


def over_columns(mesh: Mesh) -> NamedSharding:
    """Splits the second axis of an array over the devices."""
    return NamedSharding(mesh, PartitionSpec(None, "data"))


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds the whole array."""
    return NamedSharding(mesh, PartitionSpec())


def check_batch(name: str, batch_size: int, mesh: Mesh) -> None:
    """Raises an `InputError` unless the batch divides over the devices of the axis `data`."""
    count = mesh.shape["data"]
    if batch_size < 1 or batch_size % count:
        lower, upper = batch_size // count * count, (batch_size // count + 1) * count
        near = " or ".join(str(n) for n in (lower, upper) if n > 0)
        what = "devices" if count == mesh.size else f"groups of {mesh.shape['model']} devices"
        raise InputError(
            f"{name}={batch_size} does not divide over {count} {what}; nearest that do: {near}"
        )


def local_rows(mesh: Mesh, batch_size: int) -> np.ndarray:
    """The positions within the global batch that this process's devices hold, ascending."""
    slices = over_batch(mesh).addressable_devices_indices_map((batch_size,)).values()
    rows = [np.arange(batch_size)[index] for index in slices]
    return np.unique(np.concatenate(rows))


def to_global(mesh: Mesh, batch: Any) -> Any:
    """Global arrays of a batch of which every process brings the rows of `local_rows`."""
    sharding = over_batch(mesh)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), batch)


def put(tree: Any, shardings: Any) -> Any:
    """Global arrays of host arrays that every process holds whole: each device gets its part only,
    and no process waits for another."""

    def place(x, sharding):
        return jax.make_array_from_callback(
            np.shape(x), sharding, lambda index: np.asarray(x)[index]
        )

    return jax.tree.map(place, tree, shardings)


def per_device(mesh: Mesh, function: Callable) -> Callable:
    """The per-device view: each device calls `function` with its rows of the first argument and
    with all others whole.

    Args:
      mesh: the devices.
      function: returns what is the same on all devices, having taken the means itself over the
        axis `data`.
    """

    def call(batch, *rest):
        specs = (PartitionSpec("data"), *[PartitionSpec()] * len(rest))
        local = jax.shard_map(
            function, mesh=mesh, in_specs=specs, out_specs=PartitionSpec(), check_vma=False
        )
        return local(batch, *rest)

    return call
