"""Shardings: which dimension of which array is split over which axis of the mesh.

Three schemes, each selected by one field of `config.mesh`. Up to rounding, all of them give the
losses of one device.

- `mesh.params=replicated`: every device holds the whole state; gradients are averaged.
- `mesh.params=fsdp`: every array of the state with at least `mesh.fsdp_min_size` elements is split
  along its largest divisible dimension over the axis `data` (Rajbhandari et al., 2020,
  arXiv:1910.02054; Zhao et al., 2023, arXiv:2304.11277). A step gathers the parameters for the
  computation; each device keeps and updates only its shard of the gradients.
- `mesh.model=N`: tensor parallelism for Transformers (Shoeybi et al., 2019, arXiv:1909.08053).
  Heads and hidden units, with their parameters, are split over the axis `model` of N devices. It
  can be combined with either of the other schemes. `Entry.tensor_axes` has the axes of a model.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import ml_collections
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cv_jax import models
from cv_jax.errors import InputError

Axes = tuple[str | None, ...]


def check(config: ml_collections.ConfigDict, mesh: Mesh, params: Any) -> None:
    """Check that the model can be split with `config.mesh`.

    Args:
      config: the run's config.
      mesh: the devices.
      params: shapes of the model's parameters.

    Raises:
      InputError: `config.mesh` does not fit the model, or two of its fields exclude each other.
    """
    c, size = config.mesh, mesh.shape["model"]
    if c.step == "pmap" and (size > 1 or c.params != "replicated"):
        raise InputError(
            "config.mesh.step=pmap: every device holds the whole state; use "
            "config.mesh.params=replicated and config.mesh.model=1, or config.mesh.step=jit"
        )
    if size == 1:
        return
    rules = models.MODELS[config.model.name].tensor_axes
    if not any(_tensor_axes(name, leaf.shape, mesh, rules) for name, leaf in _named(params)):
        raise InputError(
            f"config.mesh.model={size}: model {config.model.name} has no parameters to split over "
            "this axis; use config.mesh.params=fsdp and config.mesh.model=1"
        )
    for name, heads in config.model.items():
        counts = heads if isinstance(heads, tuple) else (heads,)
        if name.endswith("num_heads") and any(count % size for count in counts):
            raise InputError(
                f"config.mesh.model={size} does not divide config.model.{name}={heads}"
            )


def stored(config: ml_collections.ConfigDict, mesh: Mesh, tree: Any) -> Any:
    """Return the shardings of a state, or of a part of a state, between steps."""
    return _placed(config, mesh, tree, fsdp=config.mesh.params == "fsdp")


def gathering(config: ml_collections.ConfigDict, mesh: Mesh, tree: Any) -> Callable[[Any], Any]:
    """Return the function from stored arrays to the arrays of the computation, for use under jit.

    Its gradient is scattered back: each device keeps its shard of the sum over all devices.

    Args:
      config: the run's config.
      mesh: the devices.
      tree: shapes of parameters, or of variables.
    """
    rest, used = stored(config, mesh, tree), _placed(config, mesh, tree, fsdp=False)

    @jax.custom_vjp
    def gather(arrays):
        return jax.lax.with_sharding_constraint(arrays, used)

    gather.defvjp(
        lambda arrays: (gather(arrays), None),
        lambda _, grads: (jax.lax.with_sharding_constraint(grads, rest),),
    )
    split = any(any(sharding.spec) for sharding in jax.tree.leaves(rest))
    return gather if split else lambda arrays: arrays


def _placed(config: ml_collections.ConfigDict, mesh: Mesh, tree: Any, fsdp: bool) -> Any:
    rules = models.MODELS[config.model.name].tensor_axes

    def place(path, leaf):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        axes = _tensor_axes(name, leaf.shape, mesh, rules) or (None,) * len(leaf.shape)
        if fsdp and leaf.size >= config.mesh.fsdp_min_size:
            axes = _fsdp_axes(axes, leaf.shape, mesh.shape["data"])
        return NamedSharding(mesh, PartitionSpec(*axes))

    return jax.tree_util.tree_map_with_path(place, tree)


def _tensor_axes(
    name: str, shape: tuple[int, ...], mesh: Mesh, rules: Mapping[str, Axes]
) -> Axes | None:
    """Return the axes of a parameter, or of an optimiser state, whose name has the same end."""
    size = mesh.shape["model"]
    for pattern, axes in rules.items():
        if size > 1 and len(shape) >= len(axes) and re.search(f"(^|/|_){pattern}$", name):
            whole = (None,) * (len(shape) - len(axes)) + axes  # the axis of scanned layers is first
            if shape[whole.index("model")] % size == 0:
                return whole
    return None


def _fsdp_axes(axes: Axes, shape: tuple[int, ...], size: int) -> Axes:
    free = [d for d, axis in enumerate(axes) if axis is None and shape[d] % size == 0]
    if not free or size == 1:
        return axes
    largest = max(free, key=lambda d: shape[d])
    return (*axes[:largest], "data", *axes[largest + 1 :])


def _named(tree):
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return [(jax.tree_util.keystr(p, simple=True, separator="/"), leaf) for p, leaf in leaves]
