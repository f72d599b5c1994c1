"""Batches: batch `t` of a run is a function of (seed, t) and of nothing else.

The stream of a run is its split, shuffled anew each epoch and repeated; batch `t` is positions
`t·B … t·B+B−1` of that stream. Which process asks, how many loader threads or workers there are,
whether examples are cached and at which step a run starts make no difference.
"""

import math
import signal
from collections.abc import Iterator
from typing import NamedTuple

import grain
import numpy as np
from absl import flags

from cv_jax.augment import apply_host
from cv_jax.augment.stream import ONCE, Stream
from cv_jax.augment.views import apply_views
from cv_jax.data.decode import Jpeg
from cv_jax.data.source import Source
from cv_jax.errors import InputError
from cv_jax.limits import free_memory

CACHES = ("auto", "device", "memory", "none")


class Images(NamedTuple):
    """The examples of a split after those host operations that draw nothing.

    Attributes:
      source: where examples come from.
      fixed: the host operations to apply; see `augment.Augmentation`.
      cached: all of them in memory, uint8 [N, H, W, C] and int32 [N], or none.
    """

    source: Source
    fixed: tuple
    cached: tuple[np.ndarray, np.ndarray] | None = None

    def get(self, index: int) -> tuple[np.ndarray | Jpeg, int]:
        """Image uint8 [H, W, C] and label; a `Jpeg` is not decoded before its pixels are read."""
        if self.cached is not None:
            return self.cached[0][index], self.cached[1][index]
        image, label = self.source.read(index)
        return (apply_host(self.fixed, None, image) if self.fixed else image), label

    def place(self, resident: bool = False) -> str:
        """Where they are, for the log; `resident` if they lie on the devices."""
        if self.cached is None:
            return f"{len(self.source):,} images, read and decoded as they are needed"
        pixels = self.cached[0]
        size = "x".join(map(str, pixels.shape[1:]))
        where = "on the devices" if resident else "in host memory"
        return f"{len(pixels):,} images of {size}, {pixels.nbytes / 2**20:,.1f} MiB, {where}"


def prepare(source: Source, fixed: tuple, cache: str, progress=lambda iterable: iterable) -> Images:
    """Decides on caching, and fills the cache.

    Args:
      source: the split.
      fixed: its deterministic host operations.
      cache: "none"; "memory" or "device" (which is filled from there); or "auto": in memory if all
        images have one size and take at most a quarter of the memory that is free.
      progress: wraps the loop over the examples, to show how far it is.
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
            f"config.data.cache={cache}: {len(source):,} images of {first.shape} take "
            f"{needed / 2**30:,.1f} GiB, {free / 2**30:,.1f} GiB of memory are free"
        )
    pixels = np.empty((len(source), *first.shape), np.uint8)
    labels = np.empty(len(source), np.int32)
    for i in progress(range(len(source))):
        image, labels[i] = images.get(i)
        if image.shape != first.shape:
            if cache == "auto":
                return images
            raise InputError(
                f"config.data.cache={cache} needs images of one size, but example {i} of "
                f"{source.name} is {image.shape}, the first {first.shape}: resize before caching"
            )
        pixels[i] = image
    return images._replace(cached=(pixels, labels))


class TrainBatches:
    """Random access to the batches of a run, as a source for Grain.

    Attributes:
      images: the examples.
      host: host operations that draw; each position of the stream has a generator of its own.
      seed: the run's seed.
      batch_size: examples in the global batch.
      rows: the positions within the global batch that this process holds.
      total_steps: number of batches.
      stream: repeats and views of each example.
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
    ):
        self.stream = stream
        self.images, self.host, self.seed = images, host, seed
        self.batch_size, self.rows, self.total_steps = batch_size, rows, total_steps
        indices = grain.MapDataset.range(len(images.source))
        self.order = indices.seed(seed).shuffle().repeat()

    def __len__(self) -> int:
        return self.total_steps

    def __getitem__(self, step: int) -> dict[str, np.ndarray]:
        """This process's rows of batch `step`: image uint8 [b, H, W, C], label int32 [b].

        Where host operations draw and there are several views, image is [b, views, H, W, C].
        """
        indices = self.indices(int(step))
        if self.images.cached is not None and not self.host:
            pixels, labels = self.images.cached
            return {"image": pixels[indices], "label": labels[indices]}
        positions = int(step) * self.batch_size + self.rows
        pairs = zip(positions, indices, strict=True)
        return _stack((self._example(*pair) for pair in pairs), len(indices))

    def indices(self, step: int) -> list[int]:
        """Which examples of the split this process's rows of batch `step` are."""
        first = step * self.batch_size
        return [self.order[int(first + row) // self.stream.repeats] for row in self.rows]

    def _example(self, position: int, index: int) -> tuple[np.ndarray, int]:
        image, label = self.images.get(index)
        if not self.host:
            return image, label
        place = (self.seed, int(position))
        if self.stream.views == 1:
            return apply_host(self.host, np.random.default_rng(place), image), label
        generators = [np.random.default_rng((*place, view)) for view in range(self.stream.views)]
        return np.stack([apply_host(self.host, g, image) for g in generators]), label


def _stack(examples: Iterator[tuple[np.ndarray | Jpeg, int]], size: int) -> dict[str, np.ndarray]:
    """The images and labels of a batch; each image is copied into it while it is warm."""
    images, labels = None, np.empty(size, np.int32)
    for i, (image, labels[i]) in enumerate(examples):
        if images is None:
            images = np.empty((size, *image.shape), np.uint8)
        if image.shape != images.shape[1:]:
            raise ValueError(f"an image of {image.shape} in a batch of {images.shape[1:]}")
        images[i] = image
    return {"image": images, "label": labels}


class EvalBatches:
    """Random access to batches that hold every example of a split once, in order.

    The last batch is padded, so that any number of devices divides it; positions tell padding
    apart.

    Attributes:
      images: the examples.
      batch_size: examples in the global batch.
      rows: the positions within the global batch that this process holds.
      views: test-time views; see `augment.views`.
    """

    def __init__(self, images: Images, *, batch_size: int, rows: np.ndarray, views: tuple = ()):
        self.images, self.batch_size, self.rows, self.views = images, batch_size, rows, views

    def __len__(self) -> int:
        return math.ceil(len(self.images.source) / self.batch_size)

    def __getitem__(self, step: int) -> dict[str, np.ndarray | tuple[np.ndarray, ...]]:
        """image uint8 [b, H, W, C], or with views a tuple of [b, V, H, W, C], one for each size;
        label int32 [b]; and position int32 [b] in the split, beyond its end for padding."""
        positions = int(step) * self.batch_size + self.rows
        # Padding repeats the first example: always there, and it counts for nothing.
        indices = np.where(positions < len(self.images.source), positions, 0)
        examples = [self.images.get(int(i)) for i in indices]
        if self.views:
            views = [apply_views(self.views, image) for image, _ in examples]
            images = tuple(np.stack(group) for group in zip(*views, strict=True))
        else:
            images = np.stack([image for image, _ in examples])
        return {
            "image": images,
            "label": np.array([label for _, label in examples], np.int32),
            "position": positions.astype(np.int32),
        }


def iterate(
    batches: TrainBatches | EvalBatches,
    start_step: int = 0,
    *,
    workers: int,
    threads: int,
    prefetch: int,
) -> Iterator[dict[str, np.ndarray]]:
    """Batches `start_step`, `start_step + 1`, … in order, loaded ahead.

    Args:
      batches: random access to them.
      start_step: the first one.
      workers: loader processes; 0 loads in threads of this process.
      threads: loader threads, in each worker if there are any.
      prefetch: batches loaded ahead.
    """
    # A cached batch is one gather: copying the cache to other processes would only cost.
    workers = 0 if batches.images.cached is not None else workers
    dataset = grain.MapDataset.source(batches)[start_step:]
    stream = dataset.to_iter_dataset(
        grain.ReadOptions(num_threads=threads, prefetch_buffer_size=prefetch)
    )
    if workers:
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()  # Grain reads its debug flags before it starts workers
        options = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=prefetch)
        stream = stream.mp_prefetch(options, worker_init_fn=_ignore_signals)
    return iter(stream)


def _ignore_signals(worker: int, workers: int) -> None:
    """Ctrl-C reaches every process of a terminal: the main one decides when loading ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
