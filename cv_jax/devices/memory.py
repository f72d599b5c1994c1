"""Memory checks before the first step: a batch and the parameters must fit.

Activations are not counted: a run that passes these checks may still run out of memory.
"""

import contextlib
import math
import resource
from pathlib import Path
from typing import Any

import jax
import ml_collections
import psutil

from cv_jax.errors import InputError


def check_batch_memory(
    config: ml_collections.ConfigDict, image_shape: tuple[int, ...], views: int
) -> None:
    """Raises an `InputError` if a batch is more than the devices can hold.

    Args:
      config: the run's config.
      image_shape: (height, width, channels).
      views: images of each training example.
    """
    pixels = math.prod(image_shape)
    for name, count in (("batch_size", views), ("eval.batch_size", 1)):
        size = config.batch_size if name == "batch_size" else config.eval.batch_size
        check_images_memory(config, f"config.{name}={size}: a batch", size, pixels * count)


def check_images_memory(
    config: ml_collections.ConfigDict, what: str, examples: int, values: int
) -> None:
    """Raises an `InputError` if so many examples of so many values are more than the devices hold.

    `what` names them in the message.
    """
    # Each value as it comes, uint8, and augmented or normalised, float32; and a label with a key.
    needed = examples * (5 * values + 16)
    _check_memory(what, needed, config.mesh.devices or jax.device_count())


def check_state_memory(params: Any) -> None:
    """Raises an `InputError` if the parameters, whose shapes these are, do not fit with their
    gradient, even if all devices share them."""
    size = sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(params))
    _check_memory("config.model: the parameters and their gradient", 2 * size, jax.device_count())


def _check_memory(what: str, needed: int, devices: int) -> None:
    stats = jax.local_devices()[0].memory_stats() or {}  # none on a CPU
    there = stats["bytes_limit"] * devices if "bytes_limit" in stats else free_memory()
    if needed > there:
        raise InputError(f"{what} takes at least {_size(needed)}, there are {_size(there)}")


def free_memory() -> int:
    """Bytes of the host's memory that this process may still take."""
    free = psutil.virtual_memory().available
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY:
        free = min(free, limit - psutil.Process().memory_info().vms)
    group = Path("/sys/fs/cgroup")  # of a container or a Slurm job
    with contextlib.suppress(OSError, ValueError):
        used = int((group / "memory.current").read_text())
        free = min(free, int((group / "memory.max").read_text()) - used)
    return max(0, free)


def _size(count: int) -> str:
    return f"{count / 2**30:,.1f} GiB" if count >= 2**30 else f"{count / 2**20:,.1f} MiB"
