"""Batches: batch `t` of a run is a function of (seed, t) only.

The stream of a run is its split, repeated and shuffled anew each epoch; batch `t` is the positions
`t·B … t·B+B−1` of the stream. Batches do not depend on the number of processes, loader threads or
workers, on the cache, or on the start step.
"""

import contextlib
import itertools
import math
import re
import sys
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from absl import flags

from cv_jax.augment import apply_host
from cv_jax.augment.stream import ONCE, Stream
from cv_jax.augment.views import apply_views, view_weights
from cv_jax.data import children, shuffle
from cv_jax.data.decode import Jpeg
from cv_jax.data.source import Source
from cv_jax.devices.memory import free_memory
from cv_jax.errors import InputError, RunError


def _grain():
    """Import grain without orbax, whose import takes most of the time and is not needed here."""
    absent = "orbax.checkpoint" not in sys.modules
    if absent:
        sys.modules["orbax.checkpoint"] = None  # grain has no checkpoints without it
    try:
        import grain
    finally:
        if absent:
            del sys.modules["orbax.checkpoint"]
    return grain


grain = _grain()


class Images(NamedTuple):
    """The examples of a split after the deterministic host operations.

    Examples are images or, without these operations, sequences; see `Source.kind`.

    Attributes:
      source: the examples before these operations.
      fixed: the deterministic host operations; see `augment.Augmentation`.
      cached: all examples in memory, images uint8 [N, H, W, C] or sequences int32 [N, S], and
        labels int32 [N] or, for sequences, [N, T]; `None` without a cache.
    """

    source: Source
    fixed: tuple
    cached: tuple[np.ndarray, np.ndarray] | None = None

    def get(self, index: int) -> tuple[np.ndarray | Jpeg, int | np.ndarray]:
        """Image uint8 [H, W, C] or sequence int32 [S], and label.

        A `Jpeg` is decoded when its pixels are read. The label is a class or a sequence int32 [T];
        see `Source.read`.
        """
        if self.cached is not None:
            return self.cached[0][index], self.cached[1][index]
        image, label = self.source.read(index)
        return (apply_host(self.fixed, None, image) if self.fixed else image), label

    def place(self, resident: bool = False) -> str:
        """Storage of the examples, for the log; `resident`: in device memory."""
        what = f"{len(self.source):,} {self.source.kind}s"
        if self.cached is None:
            return f"{what}, read and decoded on demand"
        values = self.cached[0]
        size = "x".join(map(str, values.shape[1:]))
        where = "in device memory" if resident else "in host memory"
        return f"{what} of {size}, {values.nbytes / 2**20:,.1f} MiB, {where}"


def prepare(source: Source, fixed: tuple, cache: str, progress=lambda iterable: iterable) -> Images:
    """Return the images of a split, and fill the cache if it is used.

    Args:
      source: the split.
      fixed: deterministic host operations.
      cache: "none", "memory", "device" (which is filled from host memory), or "auto": use host
        memory if all images have one size and need at most a quarter of the free memory.
      progress: wraps the loop over the examples, to display progress.

    Raises:
      InputError: the images do not fit the requested cache.
    """
    images = Images(source, fixed)
    if cache == "none" or not len(source):
        return images
    first, last = (np.asarray(images.get(i)[0]) for i in (0, len(source) - 1))
    needed, free = first.nbytes * len(source), free_memory()
    if cache == "auto" and not (needed <= free / 4 and first.shape == last.shape):
        return images
    if needed > free:
        raise InputError(
            f"config.data.cache={cache}: {len(source):,} images of {first.shape} need "
            f"{needed / 2**30:,.1f} GiB; {free / 2**30:,.1f} GiB of memory are free"
        )
    pixels = np.empty((len(source), *first.shape), first.dtype)
    labels = np.empty((len(source), *source.label_shape), np.int32)
    for i in progress(range(len(source))):
        image, labels[i] = images.get(i)
        if image.shape != first.shape:
            if cache == "auto":
                return images
            raise InputError(
                f"config.data.cache={cache} needs images of one size: example {i} of {source.name} "
                f"is {image.shape}, the first {first.shape}; add a resize operation"
            )
        pixels[i] = image
    return images._replace(cached=(pixels, labels))


def first_images(images: Images, host: tuple, seed: int, count: int) -> np.ndarray:
    """Return the first `count` images of a split, or all of a smaller one: uint8 [N, H, W, C].

    Args:
      images: the split.
      host: random host operations; each image has its own generator.
      seed: the seed of the run.
      count: largest number of images.
    """
    count = min(count, len(images.source))
    if images.cached is not None and not host:
        return images.cached[0][:count]
    return stack_equal(
        [
            apply_host(host, np.random.default_rng((seed, i)), images.get(i)[0])
            for i in range(count)
        ],
        "config.augment",
    )


class TrainBatches:
    """Random access to the training batches of a run, as a Grain source.

    Attributes:
      images: the examples.
      host: random host operations; each position of the stream has its own generator.
      seed: the seed of the run.
      batch_size: size of the global batch.
      rows: rows of the global batch on this process.
      total_steps: number of batches.
      stream: repeats and views of each example.
      places: whether a batch also has `example`, the index in the split, and `epoch`, the number of
        passes over the split before; int32 [b].
    """

    def __init__(
        self,
        images: Images,
        host: tuple,
        *,
        seed: int,
        batch_size: int,
        rows: np.ndarray,
        total_steps: int,
        stream: Stream = ONCE,
        places: bool = False,
    ):
        self.stream, self.places, self._examples = stream, places, len(images.source)
        self.images, self.host, self.seed = images, host, seed
        self.batch_size, self.rows, self.total_steps = batch_size, rows, total_steps
        indices = grain.MapDataset.range(len(images.source))
        self.order = indices.seed(seed).shuffle().repeat()

    def __len__(self) -> int:
        return self.total_steps

    def __getitem__(self, step: int) -> dict[str, np.ndarray]:
        """Rows of batch `step` on this process: image uint8 [b, H, W, C]; label int32 [b], [b, T].

        With random host operations and several views, image is [b, views, H, W, C]. Without images
        the batch has sequence int32 [b, S] instead.
        """
        indices = self.indices(int(step))
        if self.images.cached is not None and not self.host:
            pixels, labels = self.images.cached
            batch = {self.images.source.kind: pixels[indices], "label": labels[indices]}
        else:
            positions = int(step) * self.batch_size + self.rows
            pairs = zip(positions, indices, strict=True)
            examples = (self._example(*pair) for pair in pairs)
            batch = _stack(examples, len(indices), self.images.source)
        if self.places:
            batch |= {"example": np.array(indices, np.int32), "epoch": self.epochs(int(step))}
        return batch

    def indices(self, step: int) -> list[int]:
        """Indices into the split of the rows of batch `step` on this process."""
        positions = (step * self.batch_size + self.rows.astype(np.int64)) // self.stream.repeats
        if self._examples < shuffle.SMALLEST_SPLIT:
            return [self.order[position] for position in positions.tolist()]
        return shuffle.shuffled(positions, self._examples, self.seed).tolist()

    def epochs(self, step: int) -> np.ndarray:
        """Epoch of each row of batch `step` on this process, int32 [b]."""
        positions = step * self.batch_size + self.rows.astype(np.int64)
        return (positions // self.stream.repeats // self._examples).astype(np.int32)

    def _example(self, position: int, index: int) -> tuple[np.ndarray, int]:
        image, label = self.images.get(index)
        if not self.host:
            return image, label
        place = (self.seed, int(position))
        if self.stream.views == 1:
            return apply_host(self.host, np.random.default_rng(place), image), label
        generators = [np.random.default_rng((*place, view)) for view in range(self.stream.views)]
        return np.stack([apply_host(self.host, g, image) for g in generators]), label


def _stack(
    examples: Iterator[tuple[np.ndarray | Jpeg, int | np.ndarray]], size: int, source: Source
) -> dict[str, np.ndarray]:
    """Stack examples to a batch; each image is copied while it is in the processor's cache."""
    images, labels = None, np.empty((size, *source.label_shape), np.int32)
    for i, (image, labels[i]) in enumerate(examples):
        if images is None:
            images = np.empty((size, *image.shape), image.dtype)
        _check_shape(image.shape, images.shape[1:], "config.augment")
        images[i] = image
    return {source.kind: images, "label": labels}


def _check_shape(shape: tuple[int, ...], first: tuple[int, ...], field: str) -> None:
    if shape != first:
        raise InputError(
            f"{field}: images of {first} and {shape} in one batch; add an operation that gives all "
            "images one size, such as resize(SIDE)"
        )


class EvalBatches:
    """Random access to the batches of a split: every example once, in order.

    The last batch is padded to the batch size; the position of padding is beyond the split.

    Attributes:
      images: the examples.
      batch_size: size of the global batch.
      rows: rows of the global batch on this process.
      views: test-time views; see `augment.views`.
    """

    def __init__(self, images: Images, *, batch_size: int, rows: np.ndarray, views: tuple = ()):
        self.images, self.batch_size, self.rows, self.views = images, batch_size, rows, views

    def __len__(self) -> int:
        return math.ceil(len(self.images.source) / self.batch_size)

    def __getitem__(self, step: int) -> dict[str, np.ndarray | tuple[np.ndarray, ...]]:
        """Rows of batch `step` on this process: image uint8 [b, H, W, C], or with views a tuple of
        [b, V, H, W, C], one per size, or without images sequence int32 [b, S]; label int32 [b] or
        [b, T]; and position in the split, int32 [b]. Views of different weights have view_weights,
        float32 [b, views of all sizes]."""
        positions = int(step) * self.batch_size + self.rows
        # Padding repeats the first example, which always exists; metrics ignore padding.
        indices = np.where(positions < len(self.images.source), positions, 0)
        if self.images.cached is not None and not self.views:
            pixels, labels = (values[indices] for values in self.images.cached)
            places = {"label": labels.astype(np.int32), "position": positions.astype(np.int32)}
            return {self.images.source.kind: pixels, **places}
        examples = [self.images.get(int(i)) for i in indices]
        weights = None
        if self.views:
            weights = view_weights(self.views, examples[0][0].shape)
            images = self._views([image for image, _ in examples])
        else:
            images = stack_equal([image for image, _ in examples])
        return {
            self.images.source.kind: images,
            "label": np.array([label for _, label in examples], np.int32),
            "position": positions.astype(np.int32),
            **({} if weights is None else {"view_weights": np.tile(weights, (len(examples), 1))}),
        }

    def _views(self, images: list[np.ndarray | Jpeg]) -> tuple[np.ndarray, ...]:
        if len({image.shape for image in images}) == 1:
            return apply_views(self.views, np.stack([np.asarray(image) for image in images]))
        views = [apply_views(self.views, image) for image in images]
        return tuple(stack_equal(group) for group in zip(*views, strict=True))


def stack_equal(
    images: Sequence[np.ndarray | Jpeg], field: str = "preprocessing of an evaluation"
) -> np.ndarray:
    """Stack images; `field` names their preprocessing in the error.

    Raises:
      InputError: their shapes differ.
    """
    for image in images:
        _check_shape(image.shape, images[0].shape, field)
    return np.stack(images)


def iterate(
    batches: TrainBatches | EvalBatches,
    start_step: int = 0,
    *,
    workers: int,
    threads: int,
    prefetch: int,
) -> Iterator[dict[str, np.ndarray]]:
    """Iterate over batches `start_step`, `start_step + 1`, … in order, with prefetching.

    Args:
      batches: random access to the batches.
      start_step: step of the first batch.
      workers: loader processes; 0 loads in threads of this process.
      threads: loader threads, per worker if `workers` is positive.
      prefetch: number of batches loaded ahead.
    """
    # A cached batch is one gather: workers would only copy the cache.
    workers = 0 if batches.images.cached is not None else workers
    dataset = grain.MapDataset.source(batches)[start_step:]
    stream = dataset.to_iter_dataset(
        grain.ReadOptions(num_threads=threads, prefetch_buffer_size=prefetch)
    )
    if not workers:
        return iter(stream)
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()  # Grain reads its debug flags before it starts workers
    options = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=prefetch)
    return _from_workers(stream.mp_prefetch(options, worker_init_fn=_start_worker))


def _from_workers(stream: grain.IterDataset) -> Iterator[dict[str, np.ndarray]]:
    with contextlib.closing(iter(stream)) as batches, _workers_named():
        with children.starting():  # Grain starts all workers for the first batch
            first = list(itertools.islice(batches, 1))
        yield from first
        yield from batches


@contextlib.contextmanager
def _workers_named() -> Iterator[None]:
    """Replace Grain's error about a killed worker by one line."""
    try:
        yield
    except RuntimeError as error:
        code = re.search(
            r"Worker process was terminated unexpectedly with exit code (\S+\d)", str(error)
        )
        if code is None:
            raise
        raise RunError(
            f"a loader process was killed (exit code {code[1]}), perhaps because the memory is "
            "full; start again to continue, perhaps with fewer config.data.workers"
        ) from None


def _start_worker(worker: int, workers: int) -> None:
    children.end_with_the_parent()
