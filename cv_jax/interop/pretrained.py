"""Initial weights of a run (`config.init_from`), and trained weights of a run directory."""

import hashlib
import pathlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import ml_collections
import numpy as np

from cv_jax import config as configs
from cv_jax import models
from cv_jax.config.fields import FIELDS
from cv_jax.config.values import tuples
from cv_jax.errors import InputError, printable
from cv_jax.interop import place, saved
from cv_jax.interop.classes import names_of, ordered
from cv_jax.interop.place import for_channels
from cv_jax.interop.target import Target, flatten, trained_with, unflatten
from cv_jax.run import class_names
from cv_jax.run.checkpoint import CheckpointError, read_each, read_newest
from cv_jax.run.checkpoint_files import inode
from cv_jax.run.json_files import Damaged, read_record
from cv_jax.run.starts import known_starts, require_one_run
from cv_jax.run.workdir import first_config


def model_fields(config: ml_collections.ConfigDict, num_classes: int) -> dict[str, Any]:
    """Return the config's model fields, with the dataset's classes and the image size."""
    fields = {key: value for key, value in config.model.items() if key != "name"}
    given = {"num_classes": num_classes, "image_size": config.image_size}
    known = models.fields(config.model.name)
    return {**fields, **{key: value for key, value in given.items() if key in known}}


def normalised(
    config: ml_collections.ConfigDict, channels: int, workdir: pathlib.Path | None = None
) -> ml_collections.ConfigDict:
    """Return the config with a mean and a standard deviation of the pixels.

    A config that states neither and starts from weights takes those of the weights, which is
    printed. A run that has begun keeps its own, so a restart does not need the weights.

    Args:
      config: the resolved config.
      channels: of the images.
      workdir: the run directory, if it is known.

    Raises:
      InputError: the weights cannot be read, or the run in `workdir` is damaged; one line.
    """
    if config.init_from is None or config.data.mean is not None:
        return configs.with_normalisation(config)
    begun = None if workdir is None else first_config(workdir)
    if begun is not None:
        return configs.with_normalisation(
            config, {name: tuple(begun[name]) for name in configs.NORMALISATION}
        )
    usual = _normalisation_of(configs.with_normalisation(config))
    try:
        weights = read(config.init_from, lambda line: None)
    except InputError as error:
        raise InputError(f"config.init_from: {str(error).splitlines()[0]}") from None
    values = _trained_normalisation(weights, channels) or usual
    if _differ(values, usual, channels):
        text = (
            f"{config.init_from}: {_in_words(values)} as in the training of these weights, instead "
            f"of {_in_words(usual)}; values in the config take precedence"
        )
        print(printable(text))
    return configs.with_normalisation(config, values)


Normalisation = dict[str, tuple[float, ...]]  # data.mean and data.std


def _normalisation_of(config: ml_collections.ConfigDict) -> Normalisation:
    flat = configs.flatten(config)
    return {name: flat[name] for name in configs.NORMALISATION}


def _trained_normalisation(weights: saved.Saved, channels: int) -> Normalisation:
    """Return the normalisation of the images that weights were trained on; {} if it is unknown."""
    facts = for_channels(weights.preprocessing, channels)
    if not {"mean", "std"} <= facts.keys():
        return {}
    values = {name: tuple(facts[name.removeprefix("data.")]) for name in configs.NORMALISATION}
    for name, value in values.items():
        FIELDS[name].check(value)
    return values


def _differ(a: Normalisation, b: Normalisation, channels: int) -> bool:
    return not all(
        np.array_equal(*(np.broadcast_to(np.float32(x[name]), channels) for x in (a, b)))
        for name in configs.NORMALISATION
    )


def _in_words(values: Normalisation) -> str:
    return " and ".join(f"{name}={value}" for name, value in values.items())


def load(
    config: ml_collections.ConfigDict,
    num_classes: int,
    input_shape: tuple[int, ...],
    classes: tuple[str, ...] = (),
) -> dict[str, Any]:
    """Load variables of the config's model from `config.init_from`; see `read`.

    A classifier of another number of classes is dropped. One with the names of the dataset's
    classes is put into their order. Image, window and patch sizes and input channels are adapted. A
    ViT takes the encoder of a masked autoencoder. Each change is printed.

    Args:
      config: the run's config.
      num_classes: classes of the dataset.
      input_shape: (height, width, channels) of the model's input, or (length,) of a sequence.
      classes: names of the dataset's classes; () if unknown.

    Raises:
      InputError: the weights do not exist, do not name their model, or do not fit; one line.
    """
    name, fields = config.model.name, model_fields(config, num_classes)
    fields.pop("image_size", None)
    is_image = len(input_shape) == 3
    size, channels = (input_shape[:2], input_shape[2]) if is_image else (None, None)

    def report(line):
        print(printable(f"{config.init_from}: {line}"))

    try:
        weights = read(config.init_from, report)
        if weights.model not in models.MODELS:
            raise InputError(f"{config.init_from} has the unknown model {weights.model!r}")
        _compare(weights, name, fields, report)
        if is_image:
            own, theirs = _normalisation_of(config), _trained_normalisation(weights, channels)
            if theirs and _differ(own, theirs, channels):
                report(f"{_in_words(own)} in the config, in the training {_in_words(theirs)}")
        weights = ordered(weights, classes, report)
        convert = models.MODELS[weights.model].converters.get(models.MODELS[name].module)
        if convert is not None:
            weights = _converted(convert, weights, name, size, fields, config.seed)
        return saved.fit(
            weights,
            name,
            image_size=size,
            in_channels=channels,
            seed=config.seed,
            report=report,
            **fields,
        )
    except (InputError, ValueError) as error:
        raise InputError(f"config.init_from: {str(error).splitlines()[0]}") from None


# Fields that do not change what given parameters compute, or whose change has its own note.
_UNCOMPARED = (
    *("num_classes", "image_size", "patch_size", "dtype", "param_dtype", "axis_name"),
    *("dropout_rate", "drop_path_rate", "layer_scale", "zero_init_residual", "kernel_init"),
    *("remat_policy", "scan_layers", "attention_implementation", "attention_weights"),
)
_POOLING = ("pool", "class_token", "fc_norm", "head_norm", "distilled")


def _compare(
    weights: saved.Saved, name: str, fields: dict[str, Any], report: Callable[[str], None]
) -> None:
    """Report fields that make the config's model another function of the same parameters.

    Weights without a classifier were not trained with their pooling.
    """
    then = {**models.fields(weights.model), **weights.fields}
    now = {**models.fields(name), **fields}
    skipped = _UNCOMPARED + (() if then.get("num_classes") else _POOLING)
    for field in sorted(then.keys() & now.keys() - {*skipped}):
        if then[field] != now[field]:
            report(
                f"model.{field} is {now[field]!r} in the config, the weights were trained with "
                f"{then[field]!r}"
            )


def _converted(
    convert: Callable[..., dict],
    weights: saved.Saved,
    name: str,
    size: tuple[int, int],
    fields: dict[str, Any],
    seed: int,
) -> saved.Saved:
    """Convert weights to the model `name` without a classifier; see `Entry.converters`."""
    model = models.create(weights.model, **{**weights.fields, "image_size": weights.image_size})
    fields = {**fields, "num_classes": 0}
    target = Target(name, image_size=size, in_channels=weights.channels, **fields)
    initial = unflatten(target.initial(list(target.shapes), seed))
    params = convert(weights.variables["params"], model, initial["params"], target.model)
    return weights._replace(variables={"params": params}, model=name, fields={}, image_size=size)


def read(where: str, report: Callable[[str], None]) -> saved.Saved:
    """Read trained weights.

    Args:
      where: a run directory, a cv_jax file, a folder in the Hub's layout, or
        `hf-hub:OWNER/NAME[@REVISION]`.
      report: called with one sentence for each change to the weights.

    Raises:
      InputError: the place does not exist or cannot be read.
    """
    if is_run(where):
        return read_run(pathlib.Path(where)).weights
    return place.read(where, report)


def digest(variables: dict[str, Any]) -> str:
    """SHA-256 of names, shapes, dtypes and values."""
    checksum = hashlib.sha256()
    for name, array in sorted(flatten(variables).items()):
        array = np.asarray(array)
        checksum.update(f"{name} {array.shape} {array.dtype}".encode() + array.tobytes())
    return checksum.hexdigest()


def is_run(where: str) -> bool:
    """Whether a path is a run directory (it has a folder `checkpoints` or a file `run.json`)."""
    path = pathlib.Path(where)
    return (path / "checkpoints").is_dir() or (path / "run.json").is_file()


class Run(NamedTuple):
    """Trained model of a run directory.

    Attributes:
      weights: the evaluated variables (averaged, if the run averages) and their model, with the
        names, normalisation and preprocessing in the records of the run.
      config: the flat config of the run, as JSON values.
      step: number of updates.
    """

    weights: saved.Saved
    config: dict[str, Any]
    step: int


def read_run(path: pathlib.Path) -> Run:
    """Read the newest sound checkpoint of a run, without its data and its optimiser.

    Raises:
      InputError: the path is not a run directory, has no sound checkpoint, or its model is unknown;
        one line.
    """
    before = inode(path)
    try:
        config = read_record(path / "config.json")
        name, size = config["model.name"], config["image_size"]
    except (FileNotFoundError, KeyError):
        raise InputError(f"{path} is not a run directory: it has no config.json of a run") from None
    except Damaged as error:
        raise InputError(f"{path}: config.json is damaged or not of a run: {error}") from None
    require_one_run(path, config, known_starts(path))
    try:
        arrays, step = read_newest(path / "checkpoints", _is_of_model)
    except CheckpointError as error:
        raise InputError(f"{path}: {error}") from None
    arrays = _evaluated(arrays)

    values = tuples(config)
    try:
        defaults = models.fields(name)
    except ValueError as error:
        raise InputError(f"{path}: {error}") from None
    fields = {key: values.get(f"model.{key}", default) for key, default in defaults.items()}
    fields = {k: v for k, v in fields.items() if v != defaults[k] and k != "image_size"}
    size = (size, size) if isinstance(size, int) else tuple(size)
    classes, channels = trained_with(arrays)
    if "num_classes" in defaults:
        fields["num_classes"] = classes or defaults["num_classes"]
    channels = _fitting_channels(path, arrays, name, size, fields, channels)
    preprocessing = {"mean": config["data.mean"], "std": config["data.std"]}
    try:
        names = class_names.read(path)
    except Damaged:  # as in an older run without names
        names = ()
    if inode(path) != before:
        raise InputError(f"{path} was moved or replaced while it was read; read it again")
    weights = saved.Saved(
        unflatten(arrays),
        name,
        fields,
        size,
        channels,
        "",
        str(path),
        preprocessing,
        class_names=names_of(name, fields, names),
        evaluation={key: values.get(key, FIELDS[key].default) for key in saved.EVALUATION},
    )
    return Run(weights, config, step)


def read_checkpoints(path: pathlib.Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield step and evaluated variables of every sound checkpoint of a run, the oldest first."""
    for arrays, step in read_each(path / "checkpoints", _is_of_model):
        yield step, unflatten(_evaluated(arrays))


def _is_of_model(name: str) -> bool:
    """Whether an array of a checkpoint belongs to the model: no optimiser, no counter."""
    return name.startswith(("params/", "model_state/", "ema/"))


def _evaluated(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the variables that an evaluation reads: the averaged ones if the run averages."""
    averaged = {k.removeprefix("ema/"): x for k, x in arrays.items() if k.startswith("ema/")}
    return averaged or {k.removeprefix("model_state/"): x for k, x in arrays.items()}


def _fitting_channels(path, arrays, name, size, fields, channels: int | None) -> int:
    """Return the number of input channels for which the model has these shapes."""
    shapes = {name: x.shape for name, x in arrays.items()}
    for count in (1, 3, 2, 4) if channels is None else (channels,):
        target = Target(name, image_size=size, in_channels=count, **fields)
        if {name: x.shape for name, x in target.shapes.items()} == shapes:
            return count
    raise InputError(f"{path}: the checkpoint does not fit {name}, the model in config.json")
