"""Images per second of the loader over the number of its threads and processes.

    python -m benchmarks.loader_scaling [--counts 1 2 4 8 16] [--seconds 3] [--out FILE.json]

JPEGs of the size of ImageNet's in a folder and their records, which `prepare` re-encoded (short
side 256, quality 90), random crops to 224×224, as in `benchmarks/input_pipeline.py`. The summary
has the images per second and core, and the number of such cores for 3,000 images per second, as
many as a ResNet-50 may consume on one GPU. The computer must do nothing else.
"""

import argparse
import concurrent.futures
import math
import os
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import turns
from benchmarks.input_pipeline import BATCH, picture, stream
from cv_jax.devices import start

WANTED = 3000.0  # images per second


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


def doubled(most: int) -> list[int]:
    """Return 1, 2, 4, … up to `most`, and `most`."""
    return sorted({min(2**i, most) for i in range(most.bit_length() + 1)})


def summary(rows: list[dict], wanted: float) -> dict[str, dict]:
    """Return what the rows of each source and kind say.

    Args:
      rows: see `turns.report` in `main`.
      wanted: images a second.

    Returns:
      "records, threads" and so on → `images_a_second` (count → speed), `a_core` (with the fewest
      threads or processes that reach the wanted speed, else with the most), `speed_up` (of the
      most, relative to one) and `cores_wanted`, the number of such cores for the wanted speed.
    """
    found: dict[str, dict] = {}
    for row in rows:
        count = row["workers"] or row["threads"]
        kind = "workers" if row["workers"] else "threads"
        speeds = found.setdefault(f"{row['source']}, {kind}", {"images_a_second": {}})
        speeds["images_a_second"][count] = row["images_a_second"]
    for entry in found.values():
        speeds = dict(sorted(entry["images_a_second"].items()))
        most = max(speeds)
        count = next((n for n, speed in speeds.items() if speed >= wanted), most)
        entry["images_a_second"] = {str(n): speed for n, speed in speeds.items()}
        entry["a_core"] = round(speeds[count] / count, 1)
        entry["cores_wanted"] = math.ceil(wanted * count / speeds[count])
        if 1 in speeds:
            entry["speed_up"] = round(speeds[most] / speeds[1], 2)
    return found


def main():
    """Measure and report every number of threads, then of processes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--counts", type=int, nargs="+", help="default: 1, 2, 4, … all cores")
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--seconds", type=float, default=3.0, help="of a measurement")
    parser.add_argument("--wanted", type=float, default=WANTED, help="images a second")
    parser.add_argument("--out", type=Path, help="write the result to this JSON file")
    flags = parser.parse_args()
    start.load_jax()
    from cv_jax import __main__ as program
    from cv_jax.run import json_files, provenance

    cores, rows = len(os.sched_getaffinity(0)), []
    result = {"command": " ".join(["python -m benchmarks.loader_scaling", *sys.argv[1:]])}
    result |= {"cores": cores, "batch": BATCH, "wanted": flags.wanted, "load": os.getloadavg()}
    with tempfile.TemporaryDirectory() as name:
        write_pictures(Path(name) / "images", flags.images)
        originals = f"folder:{name}/images"
        words = ["prepare", originals, f"--to={name}/records", "--short-side=256", "--quality=90"]
        program.main(words)
        conditions = provenance.environment()  # starts JAX, after the processes above have forked
        result |= {"commit": conditions["commit"], "versions": conditions["versions"]}
        sources = {"records": f"records:{name}/records", "jpegs": originals}
        turns.hold_device()
        for kind in ("threads", "workers"):
            for place, source in sources.items():
                for count in flags.counts or doubled(cores):
                    workers, threads = (0, count) if kind == "threads" else (count, 1)
                    found = speed(source, flags.images, workers, threads, flags.seconds)
                    row = {"source": place, "workers": workers, "threads": threads}
                    row |= {"batch": BATCH, "cores": cores, "images_a_second": round(found, 1)}
                    rows.append(row)
                    turns.report(**row)
                    result |= {"summary": summary(rows, flags.wanted), "rows": rows}
                    if flags.out:
                        json_files.write_json(flags.out, result)
    turns.report(cores=cores, wanted=flags.wanted, summary=result["summary"])


if __name__ == "__main__":
    main()
