"""Images per second of the loader over the number of its threads and processes.

    python -m benchmarks.loader_scaling [--counts 1 2 4 8 16] [--seconds 3]

JPEGs of the size of ImageNet's and their re-encoded records (short side 256, quality 90), random
crops to 224×224, as in `benchmarks/input_pipeline.py`. The computer must do nothing else.
"""

import argparse
import concurrent.futures
import os
import tempfile
import time
from pathlib import Path

from benchmarks import turns
from benchmarks.input_pipeline import BATCH, picture, stream
from cv_jax.devices import start


def write_pictures(folder: Path, count: int) -> None:
    """Write JPEGs of eight classes, on all cores."""
    with concurrent.futures.ProcessPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        for i, data in enumerate(pool.map(picture, range(count))):
            file = folder / "train" / str(i % 8) / f"{i:05}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)


def speed(source: str, images: int, workers: int, threads: int, seconds: float) -> float:
    """Return the images per second, after the first batches."""
    from cv_jax.data import pipeline

    batches = stream(source, "bilinear", images)
    loaded = pipeline.iterate(batches, 0, workers=workers, threads=threads, prefetch=4)
    try:
        for _ in range(2 + workers):
            next(loaded)
        began, count = time.perf_counter(), 0
        while time.perf_counter() - began < seconds:
            count += len(next(loaded)["image"])
        return count / (time.perf_counter() - began)
    finally:
        loaded.close()


def main():
    """Measure and report every number of threads, then of processes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--counts", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--seconds", type=float, default=3.0, help="of a measurement")
    flags = parser.parse_args()
    start.load_jax()
    from cv_jax import __main__ as program

    with tempfile.TemporaryDirectory() as name:
        write_pictures(Path(name) / "images", flags.images)
        originals = f"folder:{name}/images"
        words = ["prepare", originals, f"--to={name}/records", "--short-side=256", "--quality=90"]
        program.main(words)
        sources = {"records": f"records:{name}/records", "jpegs": originals}
        turns.hold_device()
        for kind in ("threads", "workers"):
            for place, source in sources.items():
                for count in flags.counts:
                    workers, threads = (0, count) if kind == "threads" else (count, 1)
                    found = speed(source, flags.images, workers, threads, flags.seconds)
                    turns.report(
                        source=place,
                        workers=workers,
                        threads=threads,
                        batch=BATCH,
                        cores=len(os.sched_getaffinity(0)),
                        images_a_second=round(found, 1),
                    )


if __name__ == "__main__":
    main()
