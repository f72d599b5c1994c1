"""A training split that lies on the devices: batches are gathered there by index.

Pixels cross the bus once. For a whole epoch the host's work is a list of indices, drawn up while
the devices train on the epoch before; the batches are those of `TrainBatches`, bit for bit.
"""

import functools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
from jax.sharding import Mesh

from cv_jax import sharding
from cv_jax.data.pipeline import Images, TrainBatches
from cv_jax.errors import InputError


def chosen(cache: str, images: Images, host: tuple) -> bool:
    """Whether the training split shall lie on the devices.

    With "auto" it does if the devices have a memory of their own and the images take at most a
    quarter of what is free there; see `pipeline.prepare` for whether they are in memory at all.

    Args:
      cache: `config.data.cache`.
      images: the split.
      host: host operations that draw, which need the images on the host.

    Raises:
      InputError: the devices are asked for, and there are such operations.
    """
    if cache == "device" and host:
        raise InputError(
            "config.data.cache=device: config.augment has host operations that draw; take those on "
            "the device (such as random_resized_crop), or data.cache=memory"
        )
    if cache != "auto" or host or images.cached is None:
        return cache == "device"
    memory = jax.local_devices()[0].memory_stats() or {}  # none on a CPU
    free = memory.get("bytes_limit", 0) - memory.get("bytes_in_use", 0)
    return images.cached[0].nbytes <= free / 4


def iterate(mesh: Mesh, batches: TrainBatches, start_step: int) -> Iterator[dict[str, jax.Array]]:
    """Global batches `start_step`, `start_step + 1`, … in order.

    Args:
      mesh: the devices; each of them holds the whole split.
      batches: their images must be cached, without host operations that draw.
      start_step: the first one.
    """
    pixels, labels = sharding.put(batches.images.cached, (sharding.replicated(mesh),) * 2)

    @functools.partial(jax.jit, out_shardings=sharding.over_batch(mesh))
    def gather(pixels, labels, plan, row):
        return {"image": pixels[plan[row]], "label": labels[plan[row]]}

    def draw_up(first, last):
        """The indices [steps, B] of batches first…last−1; a process brings its own columns."""
        plan = np.stack([batches.indices(step) for step in range(first, last)], dtype=np.int32)
        return jax.make_array_from_process_local_data(sharding.over_columns(mesh), plan)

    steps = max(1, len(batches.images.source) // batches.batch_size)
    chunks = [
        (first, min(first + steps, len(batches)))
        for first in range(start_step, len(batches), steps)
    ]
    with ThreadPoolExecutor(1) as ahead:
        plans = [ahead.submit(draw_up, *chunk) for chunk in chunks[:1]]
        for i, (first, last) in enumerate(chunks):
            plan = plans.pop().result()
            plans += [ahead.submit(draw_up, *chunk) for chunk in chunks[i + 1 : i + 2]]
            for row in range(last - first):
                yield gather(pixels, labels, plan, np.int32(row))
