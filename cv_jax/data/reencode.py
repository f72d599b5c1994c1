"""Re-encoding a dataset into ArrayRecord shards: smaller JPEGs or raw pixels, for speed.

Shard k of a split contains a fixed range of its examples, in order. Its bytes depend on the
examples and options only, not on the number of processes or on interruptions. A shard is written
under a temporary name and renamed when complete. Then a JSON note with count, labels and SHA-256 is
written. A shard with a note is kept when the command is run again.
"""

import contextlib
import dataclasses
import fcntl
import hashlib
import io
import json
import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter
from PIL import Image

from cv_jax.data import children, decode, records, sources, subsets
from cv_jax.data.source import Source, require_images
from cv_jax.errors import InputError, RunError, one_line
from cv_jax.paths import read_json


class Options(NamedTuple):
    """Encoding options.

    Attributes:
      short_side: length to which longer shorter sides are resized; `None` keeps all sizes.
      method: filter for resizing; see `augment.resample`.
      quality: JPEG quality, 1…100; `None` stores raw pixels.
      shard_examples: examples per shard.
      skip_broken: skip unreadable examples instead of stopping.
      max_pixels: images with more pixels are unreadable; see `decode.open_image`.
    """

    short_side: int | None = None
    method: str = "bicubic"
    quality: int | None = 90
    shard_examples: int = 2048
    skip_broken: bool = False
    max_pixels: int = decode.MAX_PIXELS


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
    say: Callable[[str], None] = print,
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
      say: prints the notes of the sources.

    Returns:
      The index; see `records`.

    Raises:
      InputError: invalid arguments, `out` was created with different arguments or is in use, or no
        example of a class can be read.
      RunError: an image cannot be read, a file cannot be written, or a worker was killed.
    """
    opened = _open(name, splits, folder, options)
    first = opened[splits[0]]
    for split, source in opened.items():
        for note in source.notes:
            say(note)
        if source.classes != first.classes:
            raise InputError(
                f"{name!r}: the classes of {splits[0]} and {split} differ; choose splits of equal "
                "classes by --splits"
            )
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
    with _claimed(out) as locked:
        if _begun(out, plan):
            return records.read_index(out)
        # Without a lock, another process may be writing them.
        for leftover in out.glob(".*.writing-*") if locked else ():
            leftover.unlink(missing_ok=True)
        pool = ProcessPoolExecutor(
            workers,
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_start_worker,
            initargs=(name, splits, folder, out, options),
        )
        with pool:
            return _write_splits(out, plan, opened, options, pool, progress)


def _open(name: str, splits: list[str], folder: Path, options: Options) -> dict[str, Source]:
    opened = {split: sources.open_source(name, split, folder) for split in splits}
    for source in opened.values():
        require_images(source, "--to")
    return {
        split: dataclasses.replace(source, max_pixels=options.max_pixels)
        for split, source in opened.items()
    }


def _write_splits(
    out: Path,
    plan: dict[str, Any],
    opened: dict[str, Source],
    options: Options,
    pool: ProcessPoolExecutor,
    progress: Callable,
) -> dict[str, Any]:
    """Write all shards, the labels and the index; see `reencode`."""
    jobs = [job for split in opened for job in _jobs(split, len(opened[split]), options)]
    todo = [job for job in jobs if not _note(out, job).is_file()]
    with children.starting():
        futures = [pool.submit(_write_shard, job) for job in todo]
    try:
        for future in progress(_Completed(futures)):
            future.result()
    except BrokenProcessPool:
        raise RunError(f"a worker process was killed; resume with: {plan['command']}") from None
    except BaseException:
        pool.shutdown(cancel_futures=True)
        raise
    written = {split: [] for split in opened}
    labels = {split: [] for split in opened}
    for job in jobs:
        note = read_json(_note(out, job))
        labels[job.split] += note.pop("labels")
        written[job.split].append(note)
    for split, source in opened.items():
        if len(labels[split]) < len(source):
            reason = "an image was skipped by --skip-broken"
            subsets.check_no_class_is_lost(source, labels[split], reason)
    digests = {split: _write_labels(out, split, labels[split]) for split in opened}
    del plan["command"]
    index = {**plan, "finished": True, "splits": written, "labels": digests}
    _write_json(out / "index.json", index)
    for job in jobs:
        _note(out, job).unlink(missing_ok=True)
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


@contextlib.contextmanager
def _claimed(out: Path) -> Iterator[bool]:
    """Create the folder and lock it; the lock ends with the process, even by a kill.

    Yields:
      Whether the folder is locked: some network file systems cannot lock a folder.

    Raises:
      InputError: `out` is a file, or another process holds the lock.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise InputError(f"--to {out} is not a folder") from None
    descriptor = os.open(out, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        locked = True
    except BlockingIOError:
        os.close(descriptor)
        raise InputError(f"--to {out} is in use by another prepare; wait for its end") from None
    except OSError:
        locked = False
    try:
        yield locked
    finally:
        os.close(descriptor)


def _begun(out: Path, plan: dict[str, Any]) -> bool:
    """Write the plan, or check that the folder has the same plan; return whether it is finished."""
    file = out / "index.json"
    if not file.is_file():
        if any(out.iterdir()):
            raise InputError(f"--to {out} is not an empty folder; use a new folder")
        _write_json(file, plan)
        return False
    try:
        old = read_json(file)
        data, finished = old["data"], old["finished"]
        # An option of a later version had its default.
        then = {**Options()._asdict(), **old["options"]}
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{file} is damaged ({one_line(error)}); use a new folder") from None
    new = json.loads(json.dumps(plan))
    now = new["options"]
    differences = [
        f"{key}: was {then.get(key)!r}, is {now.get(key)!r}"
        for key in sorted({*then, *now})
        if then.get(key) != now.get(key)
    ]
    parts = sorted({*data, *new["data"]})
    differences += [f"{key} data" for key in parts if data.get(key) != new["data"].get(key)]
    if differences:
        raise InputError(
            f"--to {out} has other options or data: {'; '.join(differences)}; use a new folder"
        )
    return finished


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
    try:
        part.write_bytes(data)
        _publish(part, file)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise RunError(f"{file}: {error.strerror}") from None


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
    children.end_with_the_parent()
    _worker.update(sources=_open(name, splits, folder, options), out=out, options=options)


def _write_shard(job: _Job) -> None:
    source, out, options = _worker["sources"][job.split], _worker["out"], _worker["options"]
    file = out / job.file
    part = _scratch(file)
    try:
        labels = _write_records(part, source, job, options)
        digest = records.checksum(part)
        _publish(part, file)
    except (RuntimeError, OSError) as error:  # the writer of records raises RuntimeError
        part.unlink(missing_ok=True)
        raise RunError(f"{file} cannot be written: {one_line(error, 300)}") from None
    note = {"file": job.file, "count": len(labels), "sha256": digest, "labels": labels}
    _write_json(_note(out, job), note)


def _write_records(part: Path, source: Source, job: _Job, options: Options) -> list[int]:
    """Write the records of a shard; return the labels."""
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
    return labels


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
