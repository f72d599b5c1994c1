"""Weights fitted to a model with other classes, channels or sizes than they were trained with."""

import math
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cv_jax import models
from cv_jax.errors import InputError
from cv_jax.interop.resize import resize

# By the registry's convention the first convolution and the classifiers carry these names.
STEMS = tuple(f"params/{name}/kernel" for name in ("conv1", "features_0", "patch_embed"))
HEAD = re.compile(r"params/head\w*/(kernel|bias)")
# A classifier with the statistics of what it reads.
WHOLE_HEAD = re.compile(rf"{HEAD.pattern}|batch_stats/head_norm/(mean|var)")


def flatten(variables) -> dict[str, Any]:
    """Variables, nested dicts, as a flat dict by path, in the tree's order."""
    leaves = jax.tree_util.tree_leaves_with_path(variables)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def unflatten(arrays: dict[str, Any]) -> dict[str, Any]:
    """The inverse of `flatten`."""
    tree = {}
    for path, leaf in arrays.items():
        *parents, last = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = leaf
    return tree


def size_of(model_name: str, image_size: int | tuple[int, int] | None = None) -> tuple[int, int]:
    """(height, width) of a model's images: the given ones, or else the model's own.

    Raises:
      ValueError: no model has this name.
    """
    size = image_size or models.fields(model_name).get("image_size")
    size = size or models.MODELS[model_name].image_size
    return (size, size) if isinstance(size, int) else tuple(size)


class Target:
    """The model that weights are wanted for, with the shape and dtype of each of its arrays."""

    def __init__(
        self,
        model_name: str,
        *,
        image_size: int | tuple[int, int] | None = None,
        channels: int | None = None,
        **fields: Any,
    ):
        """Traces the model's initialisation; nothing is computed.

        Args:
          model_name: the registry's name.
          image_size: side or (height, width); by default the model's own.
          channels: input channels; by default those of the publication.
          **fields: fields of the model.

        Raises:
          InputError: there is no such model or field, or a value is not allowed.
        """
        try:
            size = size_of(model_name, image_size)
            if image_size is not None and "image_size" in models.fields(model_name):
                fields["image_size"] = size
            self.model = models.create(model_name, **fields)
            self.channels = channels or models.MODELS[model_name].channels
            self.image_size = size
            image = jnp.zeros((1, *size, self.channels), jnp.float32)
            self._inputs = (image, *models.dummy_inputs(model_name)[1:])
            self.shapes = flatten(jax.eval_shape(self._init, 0))
        except ValueError as error:
            raise InputError(str(error)) from None

    @property
    def num_classes(self) -> int:
        """Classes of the model's classifier; 0 for a model that has none."""
        return getattr(self.model, "num_classes", 0)

    def initial(self, paths: list[str], seed: int) -> dict[str, np.ndarray]:
        """Freshly initialised arrays; the compiler leaves out whatever other paths would need."""
        if not paths:
            return {}

        def select(seed):
            arrays = flatten(self._init(seed))
            return {path: arrays[path] for path in paths}

        return {path: np.asarray(array) for path, array in jax.jit(select)(seed).items()}

    def _init(self, seed):
        return self.model.init(jax.random.key(seed), *self._inputs)


def input_channels(kernel: np.ndarray, channels: int) -> np.ndarray:
    """The first filter [h, w, in, out] for images of another number of channels.

    One channel gets the sum over the colours, so that a grey image gives what it gave as an RGB
    image of three equal channels. Any other number gets the filters in turn, again and again, each
    scaled by in/channels, so that the response keeps its size. These are timm's rules.
    """
    before = kernel.shape[2]
    if channels == 1:
        return kernel.sum(axis=2, keepdims=True)
    repeated = np.tile(kernel, (1, 1, math.ceil(channels / before), 1))[:, :, :channels]
    return repeated * kernel.dtype.type(before / channels)


def trained_with(arrays: Mapping[str, np.ndarray]) -> tuple[int, int | None]:
    """Classes (0 without a classifier) and input channels (None without a known first filter)."""
    head = arrays.get("params/head/bias")
    stems = [arrays[path].shape[2] for path in STEMS if path in arrays]
    return 0 if head is None else len(head), stems[0] if stems else None


def check(complaint: str, got: dict[str, tuple], expected: dict[str, tuple]) -> None:
    """Compares shapes by name.

    Raises:
      InputError: they differ; after the complaint and the counts, every missing, misshapen and
        unexpected name has a line of its own.
    """
    common = expected.keys() & got.keys()
    lines = {
        "missing": [f"{name} {shape}" for name, shape in expected.items() if name not in common],
        "misshapen": [
            f"{name}: expected {shape}, got {got[name]}"
            for name, shape in expected.items()
            if name in common and got[name] != shape
        ],
        "unexpected": [f"{name} {shape}" for name, shape in got.items() if name not in common],
    }
    if any(lines.values()):
        counts = ", ".join(f"{len(found)} {kind}" for kind, found in lines.items() if found)
        details = [f"  {kind} {line}" for kind, found in lines.items() for line in found]
        raise InputError("\n".join([f"{complaint}: {counts}", *details]))


def adapt(
    arrays: Mapping[str, np.ndarray],
    target: Target,
    seed: int = 0,
    source: str = "timm",
    trained_size: tuple[int, int] | None = None,
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Fits arrays, by path, to a target that may have other classes, input channels and sizes.

    A classifier for other classes is left out; what is then lacking of the target's is initialised
    from `seed`. Sizes are adapted in the way of `source`, from images of `trained_size` (see
    `resize`).

    Returns:
      `(arrays, notes)`: every array of the target, in its dtype, and one sentence for each thing
      that was not taken over as it was.

    Raises:
      InputError: the arrays differ from the target's in any other way; all of them are listed.
    """
    arrays, notes = resize(arrays, target.model, target.image_size, source, trained_size)
    classes, channels = trained_with(arrays)
    for path in STEMS:
        if path in arrays and path in target.shapes and channels != target.channels:
            arrays[path] = input_channels(arrays[path], target.channels)
            notes.append(f"{path}: {channels} input channels made {target.channels}")
    if classes != target.num_classes:
        arrays = {path: x for path, x in arrays.items() if not WHOLE_HEAD.fullmatch(path)}
        if classes:
            notes.append(f"the classifier of {classes} classes left out")
    fresh = [path for path in target.shapes if WHOLE_HEAD.fullmatch(path) and path not in arrays]
    arrays.update(target.initial(fresh, seed))
    if fresh:
        notes.append(f"{' and '.join(fresh)} initialised anew")
    check(
        "these weights do not fit the model",
        {path: x.shape for path, x in arrays.items()},
        {path: x.shape for path, x in target.shapes.items()},
    )
    ordered = {path: np.asarray(arrays[path], x.dtype, "C") for path, x in target.shapes.items()}
    return ordered, notes
