"""A trained network with all that its evaluation needs: of a run, a file or the Hub."""

import dataclasses
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from flax.errors import FlaxError

from cv_jax import config as configs
from cv_jax import models, tasks
from cv_jax.augment.batch import normalise_batch
from cv_jax.config.fields import FIELDS
from cv_jax.config.values import check
from cv_jax.data import pipeline, splits, subsets
from cv_jax.data.folder import FolderRecords
from cv_jax.data.source import PADDING, Source
from cv_jax.errors import InputError, one_line
from cv_jax.evaluation import plan
from cv_jax.evaluation.sequence import make_writer
from cv_jax.interop import classes, pretrained
from cv_jax.interop.saved import Saved
from cv_jax.progress import counted
from cv_jax.random_streams import stream_key
from cv_jax.tasks.sequences import classes_of

# Flag of a command → config field that it sets.
FLAGS = {"preprocess": "eval_preprocess", "mean": "data.mean", "std": "data.std"}
_EXAMPLES = {
    "preprocess": "'resize_small(256)|central_crop(224)'",
    "mean": "0.485,0.456,0.406",
    "std": "0.229,0.224,0.225",
}


class Trained(NamedTuple):
    """A trained network.

    Attributes:
      place: where it was read: a run directory, a file, a folder in the Hub's layout, "hf-hub:…".
      weights: variables and description.
      model: the module.
      config: of a run its config; of weights a config with the fields that evaluation reads.
      is_run: whether the place is a run directory.
    """

    place: str
    weights: Saved
    model: nn.Module
    config: ml_collections.ConfigDict
    is_run: bool

    def class_names(self) -> tuple[str, ...]:
        """Return the names of the classes; () if unknown."""
        return self.weights.class_names


def open_trained(
    place: str, given: Mapping[str, str | None], data_dir: str | None, report: Callable[[str], None]
) -> Trained:
    """Read a trained network of images.

    Args:
      place: a run directory, a cv_jax file, a folder in the Hub's layout, or `hf-hub:OWNER/NAME`.
      given: preprocessing that replaces the recorded one: name in `FLAGS` → text or `None`.
      data_dir: folder of prepared datasets; default: that of the run.
      report: called with one sentence for each change to the weights.

    Raises:
      InputError: the place cannot be read, its network reads sequences, or it does not record its
        preprocessing and `given` does not state it.
    """
    run = pretrained.read_run(pathlib.Path(place)) if pretrained.is_run(place) else None
    if run is not None:
        weights = classes.named(run.weights, run.config, data_dir, report)
        values = dict(run.config)
    else:
        weights = pretrained.read(place, report)
        values = {f"data.{name}": weights.preprocessing.get(name) for name in ("mean", "std")}
        values = {k: v for k, v in values.items() if v is not None} | weights.evaluation
        values |= {"data.name": "", "model.name": weights.model, "image_size": weights.image_size}
    if weights.model not in models.MODELS:
        raise InputError(f"{place} has the unknown model {weights.model!r}")
    for flag, field in FLAGS.items():
        if given.get(flag) is not None:
            values[field] = _parse(flag, field, given[flag])
    missing = [flag for flag, field in FLAGS.items() if field not in values]
    if missing:
        raise InputError(
            f"{place} does not record how images are prepared; add "
            + " and ".join(f"--{flag}={_EXAMPLES[flag]}" for flag in missing)
            + ", with the values of its training"
        )
    config = configs.restore(values)
    if tasks.reads(config) != "image":
        raise InputError(f"{place} holds {weights.model}, which reads sequences, not images")
    if data_dir is not None:
        config.data.dir = data_dir
    for name in ("mean", "std"):
        if len(config.data[name]) not in (1, weights.channels):
            raise InputError(
                f"--{name} has {len(config.data[name])} values; images of {place} have "
                f"{weights.channels} channels"
            )
    return Trained(place, weights, _model(place, weights), config, run is not None)


def _parse(flag: str, field: str, text: str) -> Any:
    """Return the value of a flag; messages name the flag."""
    value = check(text, FIELDS[field].type, f"--{flag}", parsing=True)
    try:
        FIELDS[field].check(value)
    except InputError as error:
        raise InputError(str(error).replace(f"config.{field}", f"--{flag}")) from None
    return value


def _model(place: str, weights: Saved) -> nn.Module:
    fields = dict(weights.fields)
    if "image_size" in models.fields(weights.model):
        fields["image_size"] = weights.image_size
    try:
        return models.create(weights.model, **fields)
    except ValueError as error:
        raise InputError(f"{place}: {one_line(error)}") from None


def files_source(trained: Trained, files: list[pathlib.Path], report: Callable) -> Source:
    """Return image files as a source; files that cannot be read are left out and reported.

    The label of every file is 0.

    Raises:
      InputError: no file can be read.
    """
    names = [str(file) for file in files]
    records = FolderRecords(pathlib.Path(), names, np.zeros(len(names), np.int64))
    data = trained.config.data
    source = Source("images", records, 1, trained.weights.channels, {}, ("image",))
    source = dataclasses.replace(source, max_pixels=data.max_pixels)
    kept, reasons = subsets.without_broken(
        source, data.threads, lambda loop: counted(loop, "reading images")
    )
    for reason in reasons:
        report(f"left out: {reason}")
    return kept


def split_source(trained: Trained, dataset: str | None, split: str | None) -> Source:
    """Return a split of a dataset.

    Args:
      trained: the network.
      dataset: name of the dataset; default: the dataset of the run.
      split: name of the split; default: the run's `data.eval_split`.

    Raises:
      InputError: the split cannot be opened, or the network is not a run and states no dataset.
    """
    data = trained.config.data
    if dataset is None and not trained.is_run:
        raise InputError(f"{trained.place} names no dataset; add --data, as --data imagenet2012")
    source = splits.open_split(
        trained.config, dataset or data.name, split or data.eval_split, "--split"
    )
    if source.channels != trained.weights.channels:
        raise InputError(
            f"images of {source.name} have {source.channels} channels, those of {trained.place} "
            f"have {trained.weights.channels}"
        )
    return source


def batches(
    trained: Trained, source: Source, size: int, start: int = 0
) -> Iterator[dict[str, Any]]:
    """Yield the batches of a source: image uint8 [size, H, W, C], label and position int32 [size].

    The last batch is padded; positions of padding are beyond the source. Test-time views are left
    out: every image has one view.
    """
    operations = plan.preprocessing(
        trained.config.eval_preprocess, trained.config.image_size, "config.eval_preprocess"
    )
    images = pipeline.Images(source, operations.fixed)
    loaded = pipeline.EvalBatches(images, batch_size=size, rows=np.arange(size))
    data = trained.config.data
    return pipeline.iterate(loaded, start, workers=0, threads=data.threads, prefetch=data.prefetch)


def inputs(trained: Trained, batch: Mapping[str, Any]) -> tuple[jax.Array, ...]:
    """Return the inputs of the model for a batch: normalised images, and what its task adds."""
    task = tasks.make_task(trained.config, trained.model)
    rngs = {"mask": stream_key(trained.config.seed, "eval_mask", 0)}
    arrays = {name: jnp.asarray(batch[name]) for name in ("image", "label", "position")}
    return task.inputs(normalise_batch(trained.config, arrays), rngs)


def with_written(trained: Trained, batch: dict[str, Any]) -> dict[str, Any]:
    """Return a batch with the sequences that the model writes as labels, int32 [B, T].

    The batch of a model that writes no sequences is returned unchanged.
    """
    if tasks.make_task(trained.config, trained.model).written is None:
        return batch
    limit = trained.config.eval.max_length
    write = jax.jit(make_writer(trained.config, trained.model, limit, 1))
    tokens, _ = write(trained.weights.variables, jnp.asarray(batch["image"]))
    rows = classes_of(tokens[:, 0])
    labels = np.full((len(rows), max(map(len, rows))), PADDING, np.int32)
    for label, row in zip(labels, rows, strict=True):
        label[: len(row)] = row
    return {**batch, "label": labels}


def one_batch(trained: Trained, source: Source, index: np.ndarray) -> dict[str, np.ndarray]:
    """Return the examples of these indices as a batch; see `batches`.

    Raises:
      InputError: the preprocessed images have different sizes, or do not fit the model.
    """
    operations = plan.preprocessing(
        trained.config.eval_preprocess, trained.config.image_size, "config.eval_preprocess"
    )
    images = pipeline.Images(source, operations.fixed)
    examples = [images.get(int(i)) for i in index]
    batch = {
        "image": pipeline.stack_equal([np.asarray(image) for image, _ in examples]),
        "label": np.array([label for _, label in examples], np.int32),
        "position": np.asarray(index, np.int32),
    }
    _check_fits(trained, batch)
    return batch


def _check_fits(trained: Trained, batch: Mapping[str, Any]) -> None:
    rngs = {"mask": jax.random.key(0)}
    try:
        jax.eval_shape(
            lambda variables: trained.model.apply(
                variables, *inputs(trained, batch), train=False, rngs=rngs
            ),
            trained.weights.variables,
        )
    except (ValueError, TypeError, FlaxError) as error:
        height, width = batch["image"].shape[1:3]
        raise InputError(
            f"images of {height}x{width} do not fit {trained.place} ({one_line(error, 120)})"
        ) from None
