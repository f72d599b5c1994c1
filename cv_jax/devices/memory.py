"""Memory checks before the first step: a batch and the parameters must fit.

Activations are not counted, so a run that passes these checks can still run out of memory.
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
    """Raise an `InputError` if a training or evaluation batch exceeds the memory of the devices.

    Args:
      config: the run's config.
      image_shape: (height, width, channels).
      views: images of each training example.
    """
    values = math.prod(image_shape)
    train, test = config.batch_size, config.eval.batch_size
    check_images_memory(config, f"config.batch_size={train}: a batch", train, values * views)
    check_images_memory(config, f"config.eval.batch_size={test}: a batch", test, values)


def check_images_memory(
    config: ml_collections.ConfigDict, what: str, examples: int, values: int
) -> None:
    """Raise an `InputError` if images exceed the memory of the devices.

    Args:
      config: the run's config.
      what: subject of the error message.
      examples: number of examples.
      values: pixel values of one example.
    """
    # Each value as uint8 and as float32, after augmentation; 16 bytes for the label and its key.
    needed = examples * (5 * values + 16)
    _check_memory(what, needed, config.mesh.devices or jax.device_count())


def check_state_memory(params: Any) -> None:
    """Raise an `InputError` if parameters and gradient exceed the memory of all devices together.

    Args:
      params: tree of arrays or of their `jax.ShapeDtypeStruct`s.
    """
    size = _bytes(params)
    _check_memory("config.model: the parameters and their gradient", 2 * size, jax.device_count())


def check_new_arrays(arrays: Any) -> None:
    """Raise an `InputError` if new arrays of weights exceed the memory of a device.

    Args:
      arrays: tree of their `jax.ShapeDtypeStruct`s.
    """
    _check_memory("the part of the model that the weights lack", _bytes(arrays), 1)


def _bytes(tree: Any) -> int:
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(tree))


def _check_memory(what: str, needed: int, devices: int) -> None:
    stats = jax.local_devices()[0].memory_stats() or {}  # `None` on a CPU
    available = stats["bytes_limit"] * devices if "bytes_limit" in stats else free_memory()
    if needed > available:
        raise InputError(f"{what} takes at least {_size(needed)}; {_size(available)} are available")


def free_memory() -> int:
    """Return the bytes of host memory that this process can still allocate."""
    free = psutil.virtual_memory().available
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY:
        free = min(free, limit - psutil.Process().memory_info().vms)
    group = Path("/sys/fs/cgroup")  # limit of a container or a Slurm job
    with contextlib.suppress(OSError, ValueError):
        used = int((group / "memory.current").read_text())
        free = min(free, int((group / "memory.max").read_text()) - used)
    return max(0, free)


def _size(count: int) -> str:
    return f"{count / 2**30:,.1f} GiB" if count >= 2**30 else f"{count / 2**20:,.1f} MiB"
