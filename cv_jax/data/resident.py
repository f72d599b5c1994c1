"""A training split in device memory: batches are gathered there by index.

Pixels are transferred once. Per epoch, the host only computes the indices, during the previous
epoch. Batches are bit-exact with `TrainBatches`.
"""

from collections.abc import Callable, Iterator
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


def put(mesh: Mesh, batches: TrainBatches) -> tuple[jax.Array, jax.Array]:
    """Return images and labels on every device; they must be cached on the host."""
    return meshes.put(batches.images.cached, (meshes.replicated(mesh),) * 2)


def taking(batches: TrainBatches) -> Callable:
    """Return the pure `(split, plan, row) → batch`; see `put` and `plans`."""
    kind, places = batches.images.source.kind, batches.places

    def take(split, plan, row):
        own = {name: numbers[row] for name, numbers in plan.items()}
        values, labels = (x[own["example"]] for x in split)
        return {kind: values, "label": labels, **(own if places else {})}

    return take


def plans(
    mesh: Mesh, batches: TrainBatches, spans: list[tuple[int, int]], rows: int | None = None
) -> Iterator[dict[str, jax.Array]]:
    """Yield the places of the batches first…last−1 of each span, one span ahead.

    Args:
      mesh: the devices.
      batches: the batches; random host operations are not allowed.
      spans: (first, last).
      rows: number of rows of a plan, which the last batch fills; `None`: as many as batches.

    Yields:
      `example` and, if batches have places, `epoch`: int32 [rows, B].
    """

    def draw_up(first, last):
        """A process provides its own columns."""
        steps = [*range(first, last), *[last - 1] * ((rows or 0) - (last - first))]
        plan = {"example": np.stack([batches.indices(step) for step in steps], dtype=np.int32)}
        if batches.places:
            plan["epoch"] = np.stack([batches.epochs(step) for step in steps])
        columns = meshes.over_columns(mesh)
        return {
            name: jax.make_array_from_process_local_data(columns, numbers)
            for name, numbers in plan.items()
        }

    with ThreadPoolExecutor(1) as ahead:
        drawn = [ahead.submit(draw_up, *span) for span in spans[:1]]
        for i in range(len(spans)):
            plan = drawn.pop().result()
            drawn += [ahead.submit(draw_up, *span) for span in spans[i + 1 : i + 2]]
            yield plan


def iterate(mesh: Mesh, batches: TrainBatches, start_step: int) -> Iterator[dict[str, jax.Array]]:
    """Iterate over global batches `start_step`, `start_step + 1`, … in order.

    Args:
      mesh: the devices; the split is replicated on each of them.
      batches: the batches; images must be cached and random host operations are not allowed.
      start_step: step of the first batch.
    """
    split, take = put(mesh, batches), taking(batches)
    gather = jax.jit(take, out_shardings=meshes.over_batch(mesh))
    steps = max(1, len(batches.images.source) // batches.batch_size)
    spans = [
        (first, min(first + steps, len(batches)))
        for first in range(start_step, len(batches), steps)
    ]
    for (first, last), plan in zip(spans, plans(mesh, batches, spans), strict=True):
        for row in range(last - first):
            yield gather(split, plan, np.int32(row))
