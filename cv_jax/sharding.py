"""Devices: the mesh, who holds which rows of a batch, and host arrays made global."""

from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from cv_jax.errors import InputError


def make_mesh(devices: int | None = None) -> Mesh:
    """A mesh with the axis `data` over the first so many devices (all of them by default).

    Raises:
      InputError: there are not so many.
    """
    available = jax.devices()
    count = len(available) if devices is None else devices
    if not 1 <= count <= len(available):
        raise InputError(
            f"config.mesh.devices={count} is not possible here: there are {len(available)} devices"
        )
    return jax.make_mesh((count,), ("data",), (AxisType.Auto,), devices=available[:count])


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
    """Raises an `InputError` unless the batch divides over the devices."""
    count = mesh.size
    if batch_size < 1 or batch_size % count:
        lower, upper = batch_size // count * count, (batch_size // count + 1) * count
        near = " or ".join(str(n) for n in (lower, upper) if n > 0)
        raise InputError(
            f"{name}={batch_size} does not divide over {count} devices; nearest that do: {near}"
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
