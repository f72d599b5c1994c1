"""Which dimension of which array is split over which axis of the mesh.

Three schemes, each chosen by one line of `config.mesh`; under all of them the losses are those of
one device, to rounding.

- `mesh.params=replicated`: every device holds the whole state; gradients are averaged.
- `mesh.params=fsdp`: every array of the state of at least `mesh.fsdp_min_size` elements is split
  along its largest divisible dimension over the axis `data` (Rajbhandari et al., 2020,
  arXiv:1910.02054; Zhao et al., 2023, arXiv:2304.11277). A step gathers the parameters that it
  computes with; of their gradients each device keeps its own part, which is all it updates.
- `mesh.model=N`: tensor parallelism for Transformers (Shoeybi et al., 2019, arXiv:1909.08053).
  Heads and hidden units are split over the axis `model` of N devices, and so are the parameters
  that belong to them. It goes together with either of the others.
"""

import re
from collections.abc import Callable
from typing import Any

import jax
import ml_collections
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cv_jax.errors import InputError

# Ends of names → axes of the last dimensions. A block's first product is split by columns and its
# second by rows, so that only the sums at its end travel.
_FIRST = r"attn/qkv|attn/[qkv]_proj|pool/(q|kv)|mlp/fc1|linear1"
_SECOND = r"attn/proj|attn/out_proj|pool/proj|mlp/fc2|linear2"
TENSOR_RULES: dict[str, tuple[str | None, ...]] = {
    rf"({_FIRST})/kernel": (None, "model"),
    rf"({_FIRST})/bias": ("model",),
    rf"({_SECOND})/kernel": ("model", None),
}


def check(config: ml_collections.ConfigDict, mesh: Mesh, params: Any) -> None:
    """Whether a model can be split as `config.mesh` says.

    Args:
      config: the run's config.
      mesh: the devices.
      params: shapes of the model's parameters.

    Raises:
      InputError: a choice that does not go with the model or with another choice.
    """
    c, size = config.mesh, mesh.shape["model"]
    if c.step == "pmap" and (size > 1 or c.params != "replicated"):
        raise InputError(
            "config.mesh.step=pmap: every device holds the whole state in the per-device view; use "
            "mesh.params=replicated and mesh.model=1, or mesh.step=jit"
        )
    if size == 1:
        return
    if not any(_tensor_axes(name, leaf.shape, mesh) for name, leaf in _named(params)):
        raise InputError(
            f"config.mesh.model={size}: only Transformers are split over an axis of their own; "
            f"for {config.model.name} use mesh.params=fsdp"
        )
    for name, heads in config.model.items():
        counts = heads if isinstance(heads, tuple) else (heads,)
        if name.endswith("num_heads") and any(count % size for count in counts):
            raise InputError(
                f"config.mesh.model={size} does not divide config.model.{name}={heads}"
            )


def stored(config: ml_collections.ConfigDict, mesh: Mesh, tree: Any) -> Any:
    """Shardings in which the leaves of a state, or of a part of one, lie between steps."""
    return _placed(mesh, tree, fsdp=config.mesh)


def gathering(config: ml_collections.ConfigDict, mesh: Mesh, tree: Any) -> Callable[[Any], Any]:
    """`arrays as stored → as they are computed with`, to be used inside a jitted function.

    Its gradient brings what comes back to the devices that store it: of the sum over all devices
    each one keeps its own part.

    Args:
      config: the run's config.
      mesh: the devices.
      tree: shapes of parameters, or of variables.
    """
    rest, used = stored(config, mesh, tree), _placed(mesh, tree, fsdp=None)

    @jax.custom_vjp
    def gather(arrays):
        return jax.lax.with_sharding_constraint(arrays, used)

    gather.defvjp(
        lambda arrays: (gather(arrays), None),
        lambda _, grads: (jax.lax.with_sharding_constraint(grads, rest),),
    )
    split = any(any(sharding.spec) for sharding in jax.tree.leaves(rest))
    return gather if split else lambda arrays: arrays


def _placed(mesh, tree, fsdp):
    def place(path, leaf):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        axes = _tensor_axes(name, leaf.shape, mesh) or (None,) * len(leaf.shape)
        if fsdp is not None and fsdp.params == "fsdp" and leaf.size >= fsdp.fsdp_min_size:
            axes = _fsdp_axes(axes, leaf.shape, mesh.shape["data"])
        return NamedSharding(mesh, PartitionSpec(*axes))

    return jax.tree_util.tree_map_with_path(place, tree)


def _tensor_axes(name, shape, mesh) -> tuple[str | None, ...] | None:
    """The rules also hold for what an optimiser keeps of a parameter, whose name ends alike."""
    size = mesh.shape["model"]
    for pattern, axes in TENSOR_RULES.items():
        if size > 1 and len(shape) >= len(axes) and re.search(f"(^|/|_){pattern}$", name):
            whole = (None,) * (len(shape) - len(axes)) + axes  # scanned layers come first
            if shape[whole.index("model")] % size == 0:
                return whole
    return None


def _fsdp_axes(axes, shape, size) -> tuple[str | None, ...]:
    free = [d for d, axis in enumerate(axes) if axis is None and shape[d] % size == 0]
    if not free or size == 1:
        return axes
    largest = max(free, key=lambda d: shape[d])
    return (*axes[:largest], "data", *axes[largest + 1 :])


def _named(tree):
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return [(jax.tree_util.keystr(p, simple=True, separator="/"), leaf) for p, leaf in leaves]
