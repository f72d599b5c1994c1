"""Names of classes: of an older run, and of a classifier that another dataset continues."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from cv_jax import models
from cv_jax.data import class_order, sources
from cv_jax.data.class_order import listed
from cv_jax.errors import InputError, RunError, one_line
from cv_jax.interop.saved import Saved
from cv_jax.interop.target import HEAD, flatten, trained_with, unflatten
from cv_jax.run import identity, json_files, workdir


def names_of(model: str, fields: dict[str, Any], names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names if they are those of the model's classes, else ().

    A masked autoencoder has no classes. A model of tokens does not state its number of classes.
    """
    if models.MODELS[model].task == "reconstruction":
        return ()
    return names if fields.get("num_classes", len(names)) == len(names) else ()


def named(
    weights: Saved, config: dict[str, Any], data_dir: str | None, report: Callable[[str], None]
) -> Saved:
    """Return the weights of a run with names of their classes.

    A run that did not record the names takes them from its dataset, if the dataset is unchanged.

    Args:
      weights: weights of the run.
      config: the flat config of the run.
      data_dir: folder of prepared datasets; default: that of the config.
      report: called with one sentence if the dataset is missing or has changed.
    """
    if weights.class_names or models.MODELS[weights.model].task == "reconstruction":
        return weights
    path, name, split = Path(weights.origin), config["data.name"], config["data.train_split"]
    folder = sources.data_folder(data_dir or config.get("data.dir"))
    try:
        starts = workdir.read_starts(path)
        if "train" not in starts[-1]["data"]:
            raise LookupError
        chosen = config.get("data.subset_seed", 0), config.get("data.target")
        source = sources.open_source(name, split, folder, *chosen)
    except (FileNotFoundError, json_files.Damaged, LookupError, TypeError):
        reason = f"{path}/run.json does not identify its data"
    except (InputError, RunError, OSError) as error:
        reason = f"its dataset cannot be opened: {one_line(error)}"
    else:
        lines = identity.other_data(starts, {"train": source.fingerprint})
        if not lines:
            names = names_of(weights.model, weights.fields, source.classes or ())
            return weights._replace(class_names=names)
        differences = ", ".join(line.partition(":")[0] for line in lines)
        reason = f"{name} is not the data of its training ({differences} differ)"
    report(f"classes are numbers, because {path} does not record their names and {reason}")
    return weights


def ordered(weights: Saved, names: tuple[str, ...], report: Callable[[str], None]) -> Saved:
    """Return weights whose classifier has its classes in the order of a dataset.

    A classifier with the same names in another order is reordered. Nothing is changed if a name is
    unknown or differs; then a sentence says which order the classifier must have.

    Args:
      weights: the weights; their classifier may have any classes.
      names: names of the dataset's classes; () if unknown.
      report: called with one sentence.
    """
    theirs = weights.class_names
    arrays = flatten(weights.variables)
    if theirs == names or trained_with(arrays)[0] != len(names):
        return weights
    if not theirs:
        natural = class_order.natural(names)
        if weights.source and natural != names:
            report(
                f"the classifier is kept, its class names are unknown: its classes must be in the "
                f"order of the dataset, {listed(names)}; timm sorts a folder's classes as "
                f"{listed(natural)}"
            )
        return weights
    if sorted(theirs) != sorted(names) or len(set(names)) < len(names):
        report(
            f"the classifier is kept although its classes, {listed(theirs)}, have other names "
            f"than those of the dataset, {listed(names)}"
        )
        return weights
    order = [theirs.index(name) for name in names]
    arrays = {path: x[..., order] if HEAD.fullmatch(path) else x for path, x in arrays.items()}
    report(f"classes of the classifier reordered by name: {listed(theirs)} → {listed(names)}")
    return weights._replace(variables=unflatten(arrays), class_names=names)
