"""Re-encoding a dataset into ArrayRecord shards: smaller JPEGs or raw pixels, for speed.

Shard k of a split contains a fixed range of its examples, in order. Its bytes depend on the
examples and options only, not on the number of processes or on interruptions. A shard is written
under a temporary name and renamed when complete. Then a JSON note with count, labels and SHA-256 is
written. A shard with a note is kept when the command is run again.
"""

import hashlib
import io
import json
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter
from PIL import Image

from cv_jax.data import decode, records, sources
from cv_jax.data.source import check_classes
from cv_jax.errors import InputError, RunError


class Options(NamedTuple):
    """Encoding options.

    Attributes:
      short_side: length to which longer shorter sides are resized; `None` keeps all sizes.
      method: filter for resizing; see `augment.resample`.
      quality: JPEG quality, 1…100; `None` stores raw pixels.
      shard_examples: examples per shard.
      skip_broken: skip unreadable examples instead of stopping.
    """

    short_side: int | None = None
    method: str = "bicubic"
    quality: int | None = 90
    shard_examples: int = 2048
    skip_broken: bool = False


def reencode(
    name: str,
    splits: list[str],
    folder: Path,
    out: Path,
    options: Options,
    *,
    workers: int,
    command: str,
    progress: Callable = lambda loop: loop,
) -> dict[str, Any]:
    """Write splits of a dataset into `out`, or resume an interrupted call.

    Args:
      name: name of the dataset; see `sources.open_source`.
      splits: names of whole splits.
      folder: folder of prepared TFDS datasets.
      out: a new folder, or the folder of an interrupted call with the same arguments.
      options: encoding options.
      workers: number of processes.
      command: command line, stored in the index for the message that asks to resume.
      progress: wraps the loop over the shards.

    Returns:
      The index; see `records`.

    Raises:
      InputError: invalid arguments, or `out` was created with different arguments.
      RunError: an image cannot be read.
    """
    opened = {split: sources.open_source(name, split, folder) for split in splits}
    first = opened[splits[0]]
    for source in opened.values():
        check_classes(first, source)
    plan = {
        "finished": False,
        "command": command,
        "data": {split: source.fingerprint for split, source in opened.items()},
        "sizes": {split: len(source) for split, source in opened.items()},
        "options": options._asdict(),
        "num_classes": first.num_classes,
        "channels": first.channels,
        "classes": first.classes,
    }
    if _begun(out, plan):
        return records.read_index(out)
    jobs = [job for split in splits for job in _jobs(split, len(opened[split]), options)]
    todo = [job for job in jobs if not _note(out, job).is_file()]
    with ProcessPoolExecutor(
        workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_start_worker,
        initargs=(name, splits, folder, out, options),
    ) as pool:
        futures = [pool.submit(_write_shard, job) for job in todo]
        try:
            for future in progress(_Completed(futures)):
                future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    written = {split: [] for split in splits}
    labels = {split: [] for split in splits}
    for job in jobs:
        note = json.loads(_note(out, job).read_text())
        labels[job.split] += note.pop("labels")
        written[job.split].append(note)
    digests = {split: _write_labels(out, split, labels[split]) for split in splits}
    del plan["command"]
    index = {**plan, "finished": True, "splits": written, "labels": digests}
    _write_json(out / "index.json", index)
    for job in jobs:
        _note(out, job).unlink()
    for leftover in out.glob(".*.writing-*"):
        leftover.unlink(missing_ok=True)
    return index


class _Job(NamedTuple):
    """One shard: its split, its file and the range of its examples."""

    split: str
    file: str
    start: int
    stop: int


def _jobs(split: str, size: int, options: Options) -> Iterator[_Job]:
    starts = range(0, size, options.shard_examples)
    for i, start in enumerate(starts):
        file = f"{split}-{i:05}-of-{len(starts):05}.array_record"
        yield _Job(split, file, start, min(size, start + options.shard_examples))


def _note(out: Path, job: _Job) -> Path:
    return out / f"{job.file}.json"


def _begun(out: Path, plan: dict[str, Any]) -> bool:
    """Create the folder, or check that it has the same plan; return whether it is finished."""
    file = out / "index.json"
    if not file.is_file():
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise InputError(f"--to {out} is not an empty folder; use a new folder")
        out.mkdir(parents=True, exist_ok=True)
        _write_json(file, plan)
        return False
    old = json.loads(file.read_text())
    new = json.loads(json.dumps(plan))
    differences = []
    for group in ("options", "data"):
        for key in sorted({*old[group], *new[group]}):
            there, here = old[group].get(key), new[group].get(key)
            if there != here:
                differences.append(
                    f"{key}: was {there!r}, is {here!r}" if group == "options" else f"{key} data"
                )
    if differences:
        raise InputError(
            f"--to {out} has other options or data: {'; '.join(differences)}; use a new folder"
        )
    return old["finished"]


def _write_labels(out: Path, split: str, labels: list[int]) -> str:
    """Write the labels of a split; return the SHA-256 of the file."""
    buffer = io.BytesIO()
    np.save(buffer, np.array(labels, np.int32))
    _write(out / f"{split}.labels.npy", buffer.getvalue())
    return hashlib.sha256(buffer.getvalue()).hexdigest()


def _write_json(file: Path, value: Any) -> None:
    _write(file, (json.dumps(value, indent=1) + "\n").encode())


def _write(file: Path, data: bytes) -> None:
    """Write a file atomically."""
    part = _scratch(file)
    part.write_bytes(data)
    _publish(part, file)


def _scratch(file: Path) -> Path:
    return file.with_name(f".{file.name}.writing-{os.getpid()}")


def _publish(part: Path, file: Path) -> None:
    """Flush a file to disk and rename it."""
    descriptor = os.open(part, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)
    os.replace(part, file)


class _Completed:
    """Iterate over futures as they complete; the length is known for progress display."""

    def __init__(self, futures):
        self.futures = futures

    def __len__(self):
        return len(self.futures)

    def __iter__(self):
        return as_completed(self.futures)


# ---- In the worker processes

_worker: dict[str, Any] = {}


def _start_worker(name, splits, folder, out, options):
    def end_with_the_parent():
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=end_with_the_parent, daemon=True).start()
    opened = {split: sources.open_source(name, split, folder) for split in splits}
    _worker.update(sources=opened, out=out, options=options)


def _write_shard(job: _Job) -> None:
    source, out, options = _worker["sources"][job.split], _worker["out"], _worker["options"]
    file = out / job.file
    part = _scratch(file)
    labels = []
    # No compression: images are compressed already, or raw for speed.
    writer = ArrayRecordWriter(str(part), "group_size:1,uncompressed")
    for index in range(job.start, job.stop):
        try:
            image, label = source.example(index)
        except decode.BrokenExample as error:
            if not options.skip_broken:
                raise RunError(f"{error} (--skip-broken skips it)") from None
            continue
        writer.write(_encode(image, options))
        labels.append(label)
    writer.close()
    digest = records.checksum(part)
    _publish(part, file)
    note = {"file": job.file, "count": len(labels), "sha256": digest, "labels": labels}
    _write_json(_note(out, job), note)


def _encode(image: np.ndarray, options: Options) -> bytes:
    """Return the record of an image, uint8 [H, W, C]."""
    if options.short_side is not None and min(image.shape[:2]) > options.short_side:
        from cv_jax.augment import host  # imports jax, which is not needed elsewhere

        image = host.resize_small(options.short_side, options.method)(None, image)
    if options.quality is None:
        return records.pack(image)
    buffer = io.BytesIO()
    pixels = image[..., 0] if image.shape[-1] == 1 else image[..., :3]
    Image.fromarray(pixels).save(buffer, "JPEG", quality=options.quality)
    return buffer.getvalue()
