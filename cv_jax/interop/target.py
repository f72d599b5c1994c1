"""Fits weights to a model with other classes, input channels or sizes."""

import functools
import math
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cv_jax import models
from cv_jax.devices import compile_options
from cv_jax.devices.memory import check_new_arrays
from cv_jax.errors import InputError
from cv_jax.interop.resize import Trained, resize

# Names of the first convolution and of the classifiers, by the registry's convention.
STEMS = tuple(f"params/{name}/kernel" for name in ("conv1", "features_0", "patch_embed"))
HEAD = re.compile(r"params/head\w*/(kernel|bias)")
# A classifier with the statistics of its input.
WHOLE_HEAD = re.compile(rf"{HEAD.pattern}|batch_stats/head_norm/(mean|var)")

# A ViT's last norm: of every token, or of the pooled features.
LAST_NORM = re.compile(r"params/(norm|fc_norm)/(scale|bias)")


def flatten(variables) -> dict[str, Any]:
    """Return nested variables as a flat dict by path, in the order of the tree."""
    leaves = jax.tree_util.tree_leaves_with_path(variables)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def unflatten(arrays: dict[str, Any]) -> dict[str, Any]:
    """Return the nested form; the inverse of `flatten`."""
    tree = {}
    for path, leaf in arrays.items():
        *parents, last = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = leaf
    return tree


def size_of(model_name: str, image_size: int | tuple[int, int] | None = None) -> tuple[int, int]:
    """Return (height, width) of a model's input: the given size, or the model's own.

    Raises:
      ValueError: no model has this name.
    """
    size = image_size or models.fields(model_name).get("image_size")
    size = size or models.MODELS[model_name].image_size
    return (size, size) if isinstance(size, int) else tuple(size)


class Target:
    """Target model of a conversion, with the shape and dtype of each of its arrays."""

    def __init__(
        self,
        model_name: str,
        *,
        image_size: int | tuple[int, int] | None = None,
        in_channels: int | None = None,
        **fields: Any,
    ):
        """Trace the model's initialisation without computing it.

        Args:
          model_name: the registry's name.
          image_size: side or (height, width); default: the model's own.
          in_channels: channels of the image; default: as published. `channels` is a field of some
            models.
          **fields: fields of the model.

        Raises:
          InputError: the model or a field is unknown, or a value is not allowed.
        """
        try:
            size = size_of(model_name, image_size)
            if image_size is not None and "image_size" in models.fields(model_name):
                fields["image_size"] = size
            self.model = models.create(model_name, **fields)
            self.channels = in_channels or models.MODELS[model_name].channels
            self.image_size = size
            first, *others = models.dummy_inputs(model_name)
            if first.ndim == 4:  # else tokens, which have no size and no channels
                first = jnp.zeros((1, *size, self.channels), jnp.float32)
            self._inputs = (first, *others)
            self.shapes = flatten(jax.eval_shape(self._init, 0))
        except ValueError as error:
            raise InputError(str(error)) from None

    @property
    def num_classes(self) -> int:
        """Classes of the model's classifier; 0 without a classifier."""
        return getattr(self.model, "num_classes", 0)

    def initial(self, paths: list[str], seed: int) -> dict[str, np.ndarray]:
        """Return newly initialised arrays; the compiler removes the work for other paths."""
        if not paths:
            return {}
        check_new_arrays([self.shapes[path] for path in paths])

        @functools.partial(jax.jit, compiler_options=compile_options.once())
        def select(seed):
            arrays = flatten(self._init(seed))
            return {path: arrays[path] for path in paths}

        return {path: np.asarray(array) for path, array in select(seed).items()}

    def _init(self, seed):
        return self.model.init(jax.random.key(seed), *self._inputs)


def input_channels(kernel: np.ndarray, channels: int) -> np.ndarray:
    """Adapt the first kernel [h, w, in, out] to another number of input channels, as timm does.

    For one channel the kernel is summed over the input channels, so a grey image gives the same
    output as an RGB image with three equal channels. Otherwise the input channels are repeated
    cyclically and scaled by in/channels, which keeps the size of the response.
    """
    before = kernel.shape[2]
    if channels == 1:
        return kernel.sum(axis=2, keepdims=True)
    repeated = np.tile(kernel, (1, 1, math.ceil(channels / before), 1))[:, :, :channels]
    return repeated * kernel.dtype.type(before / channels)


def trained_with(arrays: Mapping[str, np.ndarray]) -> tuple[int, int | None]:
    """Return the classes (0 without a classifier) and the input channels of the weights.

    The input channels are `None` without a known first kernel.
    """
    head = arrays.get("params/head/bias")
    stems = [arrays[path].shape[2] for path in STEMS if path in arrays]
    return 0 if head is None else len(head), stems[0] if stems else None


def check(complaint: str, got: dict[str, tuple], expected: dict[str, tuple]) -> None:
    """Compare shapes by name.

    Raises:
      InputError: shapes differ. The first line has the complaint and the counts; one line follows
        for each missing, misshapen and unexpected name.
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
    trained: Trained | None = None,
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Fit arrays, by path, to a target with other classes, input channels or sizes.

    A classifier with other classes is dropped; a missing classifier is initialised from `seed`.
    Likewise the last norm, if the target has it on the other side of the pooling. Sizes are
    resampled with the method of `source` (see `resize`).

    Returns:
      `(arrays, notes)`: all arrays of the target, in its dtypes, and one sentence for each change.

    Raises:
      InputError: the arrays differ from the target in another way; lists all differences.
    """
    arrays, notes = resize(arrays, target.model, target.image_size, source, trained)
    classes, channels = trained_with(arrays)
    for path in STEMS:
        if path in arrays and path in target.shapes and channels != target.channels:
            arrays[path] = input_channels(arrays[path], target.channels)
            notes.append(f"{path}: adapted from {channels} to {target.channels} input channels")
    if classes != target.num_classes:
        arrays = {path: x for path, x in arrays.items() if not WHOLE_HEAD.fullmatch(path)}
        if classes:
            notes.append(f"classifier of {classes} classes dropped")
    moved = {path for path in arrays if LAST_NORM.fullmatch(path)} - target.shapes.keys()
    if moved:
        arrays = {path: x for path, x in arrays.items() if path not in moved}
        notes.append(f"{' and '.join(sorted(moved))} dropped")
    replaceable = [WHOLE_HEAD, LAST_NORM] if moved else [WHOLE_HEAD]
    fresh = [
        path
        for path in target.shapes
        if path not in arrays and any(pattern.fullmatch(path) for pattern in replaceable)
    ]
    arrays.update(target.initial(fresh, seed))
    if fresh:
        notes.append(f"{' and '.join(fresh)} newly initialised")
    check(
        "these weights do not fit the model",
        {path: x.shape for path, x in arrays.items()},
        {path: x.shape for path, x in target.shapes.items()},
    )
    ordered = {path: np.asarray(arrays[path], x.dtype, "C") for path, x in target.shapes.items()}
    return ordered, notes
