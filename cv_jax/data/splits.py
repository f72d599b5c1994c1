"""Opening of splits with the options of the config."""

import dataclasses
import functools
import sys
from typing import Any

import ml_collections

from cv_jax.data import digests, fingerprint, sources, subsets
from cv_jax.data.source import Source
from cv_jax.devices.processes import is_main
from cv_jax.errors import InputError, printable
from cv_jax.progress import counted


def open_split(config: ml_collections.ConfigDict, dataset: str, split: str, field: str) -> Source:
    """Open a split; with `config.data.skip_broken`, unreadable examples are removed.

    Args:
      config: config of the run; `config.data` is read.
      dataset: name of the dataset; see `sources.open_source`.
      split: name of the split.
      field: config field that names the split, for messages.

    Raises:
      InputError: the split cannot be opened or is empty, or a class has unreadable examples only.
    """
    data = config.data
    folder = sources.data_folder(data.dir)
    source = sources.open_source(dataset, split, folder, data.subset_seed, data.target)
    source = dataclasses.replace(
        source,
        max_pixels=data.max_pixels,
        fingerprint={**source.fingerprint, **contents(source, data.hash == "full")},
    )
    announce(source)
    if data.skip_broken:
        source, reasons = subsets.without_broken(
            source, data.threads, lambda loop: counted(loop, "looking for broken images")
        )
        if reasons:
            say(f"skipping {len(reasons)} unreadable examples of {split}; the first: {reasons[0]}")
    if not len(source):
        raise InputError(f"{field}: split {split!r} is empty")
    return source


def open_train(config: ml_collections.ConfigDict) -> Source:
    """Open the training split, reduced by `config.data.fraction` or `config.data.per_class`.

    See `noted` for large data.
    """
    data = config.data
    source = open_split(config, data.name, data.train_split, "config.data.train_split")
    source = subsets.balanced(
        source,
        data.fraction,
        data.per_class,
        data.subset_seed,
        lambda loop: counted(loop, "reading labels"),
    )
    if not len(source):
        raise InputError(f"config.data.fraction={data.fraction} selects no example")
    chosen = {name: data[name] for name in ("fraction", "per_class", "subset_seed")}
    return noted(config, source, data.train_split, chosen)


def noted(
    config: ml_collections.ConfigDict, source: Source, split: str, chosen: dict[str, Any]
) -> Source:
    """Return a split that compares each example with its first reading; see `digests`.

    Small data are hashed at each start, and returned as they are. The index of an example is that
    in its part of the split: if a label that selects the part has changed, all examples have.

    Args:
      config: config of the run.
      source: the split.
      split: its name.
      chosen: the options that select the part.
    """
    if source.fingerprint.get("contents") and config.data.hash != "full":
        return source
    fixed = {k: v for k, v in source.fingerprint.items() if k not in fingerprint.LATER}
    return digests.noted(source, {**fixed, "split": split, **chosen})


def contents(source: Source, full: bool) -> dict[str, str | None]:
    """Return the identity of all files of a dataset; see `fingerprint`."""
    if not source.files:
        return {}
    say = f"reading the files of {source.name}"
    return fingerprint.of_files(source.files, full, lambda loop: counted(loop, say))


def announce(source: Source) -> None:
    """Print the notes of a source; each note once per process."""
    for note in source.notes:
        say(note)


@functools.cache  # splits of one folder share a note, and a run opens a split more than once
def say(line: str) -> None:
    """Print a line on the data in process 0; a line that was printed before is left out."""
    if is_main():
        print(printable(line), file=sys.stderr)
