"""The device mesh, shardings over it, and the conversion of host arrays to global arrays."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from cv_jax.errors import InputError


def make_mesh(devices: int | None = None, model: int = 1) -> Mesh:
    """Return a mesh with the axes `data` and `model`.

    Args:
      devices: number of devices; all by default.
      model: length of the axis `model`, along which devices are neighbours.

    Raises:
      InputError: the number is larger than available, not divisible by `model`, or not the number
        of all devices of several processes.
    """
    available = jax.devices()
    count = len(available) if devices is None else devices
    if count > len(available):
        raise InputError(
            f"config.mesh.devices={count} is too many: there are {len(available)} devices"
        )
    if jax.process_count() > 1 and count != len(available):
        raise InputError(
            f"config.mesh.devices={count}: {jax.process_count()} processes always use all "
            f"{len(available)} devices; remove this field"
        )
    if count % model:
        raise InputError(f"config.mesh.model={model} does not divide {count} devices")
    shape, types = (count // model, model), (AxisType.Auto,) * 2
    return jax.make_mesh(shape, ("data", "model"), types, devices=available[:count])


def over_batch(mesh: Mesh) -> NamedSharding:
    """Sharding of the first axis over the axis `data`."""
    return NamedSharding(mesh, PartitionSpec("data"))


def over_columns(mesh: Mesh) -> NamedSharding:
    """Sharding of the second axis over the axis `data`."""
    return NamedSharding(mesh, PartitionSpec(None, "data"))


def replicated(mesh: Mesh) -> NamedSharding:
    """Sharding with a full copy on each device."""
    return NamedSharding(mesh, PartitionSpec())


def check_batch(name: str, batch_size: int, mesh: Mesh) -> None:
    """Raise an `InputError` unless the axis `data` divides the batch size."""
    count = mesh.shape["data"]
    if batch_size < 1 or batch_size % count:
        lower, upper = batch_size // count * count, (batch_size // count + 1) * count
        near = " or ".join(str(n) for n in (lower, upper) if n > 0)
        what = "devices" if count == mesh.size else f"groups of {mesh.shape['model']} devices"
        raise InputError(
            f"{name}={batch_size} does not divide over {count} {what}; nearest valid: {near}"
        )


def local_rows(mesh: Mesh, batch_size: int) -> np.ndarray:
    """Return the indices of this process's rows in the global batch, ascending."""
    slices = over_batch(mesh).addressable_devices_indices_map((batch_size,)).values()
    rows = [np.arange(batch_size)[index] for index in slices]
    return np.unique(np.concatenate(rows))


def to_global(mesh: Mesh, batch: Any) -> Any:
    """Return global arrays from a batch; each process passes its `local_rows`."""
    sharding = over_batch(mesh)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), batch)


def put(tree: Any, shardings: Any) -> Any:
    """Return global arrays from host arrays that are equal in all processes.

    Each device receives only its shard, without communication between processes.
    """

    def place(x, sharding):
        return jax.make_array_from_callback(
            np.shape(x), sharding, lambda index: np.asarray(x)[index]
        )

    return jax.tree.map(place, tree, shardings)


def per_device(mesh: Mesh, function: Callable) -> Callable:
    """Return a function that each device calls with its shard of the batch.

    The first argument is split over the axis `data`; all others are replicated.

    Args:
      mesh: the devices.
      function: must return equal values on all devices; it averages over the axis `data` itself.
    """

    def call(batch, *rest):
        specs = (PartitionSpec("data"), *[PartitionSpec()] * len(rest))
        local = jax.shard_map(
            function, mesh=mesh, in_specs=specs, out_specs=PartitionSpec(), check_vma=False
        )
        return local(batch, *rest)

    return call
