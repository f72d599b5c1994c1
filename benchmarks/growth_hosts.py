"""Host work over the number of files or trials; a part of `benchmarks.growth`.

Every measure returns the shortest processor and wall time of several repetitions, and the most
memory that Python's own allocator had in use during one more.
"""

import contextlib
import io
import os
import shutil
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks import growth_sweeps

IN_A_CLASS = 100  # files
AT_MOST = 20.0  # seconds for further repetitions of one size


def cores() -> int:
    """Return the number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0))


def measured(work: Callable[[], object], repetitions: int) -> dict[str, float]:
    """Return `processor_seconds`, `seconds` and `peak_bytes` of a function without arguments."""
    best, wall, began = float("inf"), float("inf"), time.perf_counter()
    for _ in range(repetitions):
        clock, processor = time.perf_counter(), time.process_time()
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            work()
        best = min(best, time.process_time() - processor)
        wall = min(wall, time.perf_counter() - clock)
        if time.perf_counter() - began > AT_MOST:
            break
    tracemalloc.start()
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            work()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    return {"processor_seconds": best, "seconds": wall, "peak_bytes": peak}


# ---- A folder of images


def folder(sizes: tuple[int, ...], repetitions: int, scratch: Path) -> Iterator[dict[str, float]]:
    """Yield the cost of opening a folder dataset: listing, checksums of names, times and contents.

    The files are links to one small picture, a hundred in a class.
    """
    from PIL import Image

    from cv_jax.data import fingerprint, sources

    picture = scratch / "picture.png"
    Image.new("RGB", (8, 8)).save(picture)
    for size in sizes:
        root = scratch / str(size)
        _link(picture, root, size)

        def work(root=root):
            source = sources.open_source(f"folder:{root}", "train", None)
            # Every start of a run reads the files again; only this process remembers their digests.
            fingerprint._sha256.cache_clear()
            fingerprint.of_files(source.files)

        yield measured(work, repetitions)
        shutil.rmtree(root)


def _link(picture: Path, root: Path, count: int) -> None:
    """Make `count` files in classes of a hundred; a file has at most 1,000 links."""
    copy = picture
    for i in range(count):
        class_ = root / "train" / f"{i // IN_A_CLASS:06}"
        if i % IN_A_CLASS == 0:
            class_.mkdir(parents=True)
        if i % 1000 == 0:
            copy = class_ / f"{i:07}.png"
            shutil.copyfile(picture, copy)
        else:
            os.link(copy, class_ / f"{i:07}.png")


# ---- Sweeps


def planning(sizes: tuple[int, ...], repetitions: int, scratch: Path):
    """Yield the cost of checking all points of a new sweep."""
    return _sweeps(sizes, repetitions, scratch, growth_sweeps.plan, finished=False)


def listing(sizes: tuple[int, ...], repetitions: int, scratch: Path):
    """Yield the cost of the table of points with their sizes, as `--dry_run` prints it."""
    return _sweeps(sizes, repetitions, scratch, growth_sweeps.list_points, finished=False)


def resuming(sizes: tuple[int, ...], repetitions: int, scratch: Path):
    """Yield the cost of starting a sweep again whose trials have all finished."""
    return _sweeps(sizes, repetitions, scratch, growth_sweeps.resume, finished=True)


def reporting(sizes: tuple[int, ...], repetitions: int, scratch: Path):
    """Yield the cost of the report of a finished sweep, without the pages of its trials."""
    return _sweeps(sizes, repetitions, scratch, growth_sweeps.report, finished=True)


def _sweeps(sizes, repetitions, scratch, work, finished) -> Iterator[dict[str, float]]:
    for size in sizes:
        place = scratch / str(size)
        place.mkdir()
        file = growth_sweeps.write_config(place, size)
        if finished:
            growth_sweeps.finish_all(file, place)
        yield measured(lambda place=place, file=file: work(file, place / "sweep"), repetitions)
        shutil.rmtree(place)
