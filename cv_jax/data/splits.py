"""A split as the config asks for it."""

import sys

import ml_collections

from cv_jax.data import sources, subsets
from cv_jax.data.source import Source
from cv_jax.errors import InputError
from cv_jax.progress import counted


def open_split(config: ml_collections.ConfigDict, dataset: str, split: str, field: str) -> Source:
    """A split of a dataset, without its broken examples if the config leaves those out.

    Args:
      config: the run's config; `config.data` is read.
      dataset: its name; see `sources.open_source`.
      split: its split.
      field: what asks for it, for messages.

    Raises:
      InputError: it cannot be opened, or holds no examples.
    """
    data = config.data
    source = sources.open_source(dataset, split, sources.data_folder(data.dir), data.subset_seed)
    if data.skip_broken:
        source, reasons = subsets.without_broken(
            source, data.threads, lambda loop: counted(loop, "looking for broken images")
        )
        if reasons:
            print(
                f"{len(reasons)} examples of {split} cannot be read and are left out; "
                f"the first: {reasons[0]}",
                file=sys.stderr,
            )
    if not len(source):
        raise InputError(f"{field}: {split!r} holds no examples")
    return source


def open_train(config: ml_collections.ConfigDict) -> Source:
    """The training examples: of the split, the part that the config keeps."""
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
        raise InputError(f"config.data.fraction={data.fraction} keeps no example")
    return source
