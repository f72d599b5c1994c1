"""A training split in device memory: batches are gathered there by index.

Pixels are transferred once. Per epoch, the host only computes the indices, during the previous
epoch. Batches are bit-exact with `TrainBatches`.
"""

import functools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
from jax.sharding import Mesh

from cv_jax.data.pipeline import Images, TrainBatches
from cv_jax.devices import mesh as meshes
from cv_jax.errors import InputError


def chosen(cache: str, images: Images, host: tuple) -> bool:
    """Return whether the training split is kept in device memory.

    With "auto" it is, if the images are cached (see `pipeline.prepare`), the devices report their
    memory, and the images need at most a quarter of the free device memory.

    Args:
      cache: `config.data.cache`.
      images: the split.
      host: random host operations, which need the images on the host.

    Raises:
      InputError: `cache` is "device" and `host` is not empty.
    """
    if cache == "device" and host:
        raise InputError(
            "config.data.cache=device: config.augment has random host operations; use device "
            "operations (such as random_resized_crop) or config.data.cache=memory"
        )
    if cache != "auto" or host or images.cached is None:
        return cache == "device"
    memory = jax.local_devices()[0].memory_stats() or {}  # `None` on a CPU
    free = memory.get("bytes_limit", 0) - memory.get("bytes_in_use", 0)
    return images.cached[0].nbytes <= free / 4


def iterate(mesh: Mesh, batches: TrainBatches, start_step: int) -> Iterator[dict[str, jax.Array]]:
    """Iterate over global batches `start_step`, `start_step + 1`, … in order.

    Args:
      mesh: the devices; the split is replicated on each of them.
      batches: the batches; images must be cached and random host operations are not allowed.
      start_step: step of the first batch.
    """
    pixels, labels = meshes.put(batches.images.cached, (meshes.replicated(mesh),) * 2)
    kind = batches.images.source.kind

    @functools.partial(jax.jit, out_shardings=meshes.over_batch(mesh))
    def gather(pixels, labels, plan, row):
        places = {name: numbers[row] for name, numbers in plan.items()}
        index = places["example"]
        return {
            kind: pixels[index],
            "label": labels[index],
            **(places if batches.places else {}),
        }

    def draw_up(first, last):
        """Places [steps, B] of batches first…last−1 by name; a process gives its own columns."""
        steps = range(first, last)
        plan = {"example": np.stack([batches.indices(step) for step in steps], dtype=np.int32)}
        if batches.places:
            plan["epoch"] = np.stack([batches.epochs(step) for step in steps])
        columns = meshes.over_columns(mesh)
        return {
            name: jax.make_array_from_process_local_data(columns, numbers)
            for name, numbers in plan.items()
        }

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
