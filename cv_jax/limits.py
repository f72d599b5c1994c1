"""What no run can have: numbers out of range, and more than fits into memory.

All of it is found before anything is computed; a run that was let through may still need more
memory than there is, for activations are not counted here.
"""

import contextlib
import math
import resource
from pathlib import Path
from typing import Any

import jax
import ml_collections
import psutil

from cv_jax.augment.host import SIDE
from cv_jax.config import flatten
from cv_jax.errors import InputError

LARGEST = 2**31 - 1  # what an int32 on a device counts to
LAYERS = 2000  # of one net; a deeper one would be traced for hours

# Field → its smallest and largest value.
RANGES: dict[str, tuple[int, int]] = {
    "seed": (0, 2**32 - 1),
    "batch_size": (1, LARGEST),
    "image_size": (1, SIDE),
    "data.subset_seed": (0, 2**32 - 1),
    "data.workers": (0, 1024),
    "data.threads": (1, 1024),
    "data.prefetch": (1, LARGEST),
    "eval.batch_size": (1, LARGEST),
    "checkpoint.keep_last": (1, LARGEST),
    "checkpoint.keep_best": (0, LARGEST),
}
# Fields of models, each of one number or several, whose sum is a number of layers.
_DEPTHS = ("depth", "decoder_depth", "depths", "stage_sizes")
DTYPES = ("float32", "bfloat16", "float16")


def check_ranges(config: ml_collections.ConfigDict) -> None:
    """Raises an `InputError` if a number is out of range that nothing else looks at."""
    for name, value in flatten(config).items():
        numbers = value if isinstance(value, tuple) else (value,)
        if name in RANGES:
            low, high = RANGES[name]
            if not all(low <= number <= high for number in numbers):
                raise InputError(f"config.{name}={value} is not in {low}…{high}")
        if name.startswith("model."):
            _check_model_field(f"config.{name}", name.removeprefix("model."), value, numbers)


def _check_model_field(field: str, name: str, value: Any, numbers: tuple) -> None:
    if name in ("dtype", "param_dtype") and value not in DTYPES:
        raise InputError(f"{field}: {value!r} is not one of {', '.join(DTYPES)}")
    for number in numbers:
        if isinstance(number, int) and abs(number) > LARGEST:
            raise InputError(f"{field}={value} is too large: at most {LARGEST}")
        if isinstance(number, float) and not math.isfinite(number):
            raise InputError(f"{field}={value} is not finite")
    if len(numbers) > LAYERS or (name in _DEPTHS and sum(numbers) > LAYERS):
        raise InputError(f"{field}={value}: a net has at most {LAYERS} layers")


def check_steps(total_steps: int) -> None:
    """Raises an `InputError` unless a run can make so many updates."""
    if not 1 <= total_steps <= LARGEST:
        more = "more than " if total_steps > LARGEST else ""
        count = min(total_steps, LARGEST)
        raise InputError(
            f"config.total_steps (or _epochs, _examples) makes {more}{count} updates; at least 1 "
            f"and at most {LARGEST} are possible"
        )


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
        size = flatten(config)[name]
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
