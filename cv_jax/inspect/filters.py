"""Weights that can be drawn as images: first-layer filters, position embeddings, bias tables.

The first layer is found in the traced program: each convolution or matrix product of a parameter
with the image. The image may have been reshaped, padded or cast before; so may the parameter.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import flax
import flax.linen as nn
import jax
import numpy as np

from cv_jax.inspect import network, places
from cv_jax.models import swin

# Primitives that move values and compute nothing.
MOVES = (
    *(
        "reshape",
        "transpose",
        "squeeze",
        "broadcast_in_dim",
        "slice",
        "pad",
        "convert_element_type",
    ),
    *("copy", "expand_dims", "rev", "sharding_constraint", "reduce_precision"),
)
PRODUCTS = ("conv_general_dilated", "dot_general")
BIAS_TABLE, POSITIONS = "relative_position_bias_table", "pos_embed"


class Filters(NamedTuple):
    """Filters of a layer that reads the image.

    Attributes:
      name: path of the kernel, such as "patch_embed/kernel".
      kernel: float32 [N, h, w, C], one filter per output channel.
      groups: number of groups that the next convolution reads separately: the towers of AlexNet.
        The first N / groups filters belong to the first tower.
    """

    name: str
    kernel: np.ndarray
    groups: int


def first_layers(model: nn.Module, variables: Mapping, images: Any, *others: Any) -> list[Filters]:
    """Return the filters of every layer that reads the image, in the order of the program.

    The kernel of a dense layer [H·W·C, N] becomes N filters of the size of the image.

    Args:
      model: any module whose first input is an image.
      variables: its variables.
      images: [B, H, W, C], or its shape.
      *others: further inputs of the model.
    """
    flat = flax.traverse_util.flatten_dict(variables["params"], sep="/")
    program = network.features.trace(model, variables, images, *others).jaxpr.jaxpr
    inputs = jax.tree_util.tree_leaves_with_path((variables, images))
    names = [_parameter(path) if path[0].idx == 0 else network.IMAGE for path, _ in inputs]
    marks = dict(zip(program.invars, names, strict=False))  # the other inputs come last
    products = list(_products(program, marks))
    found = []
    for i, (operands, equation) in enumerate(products):
        if operands[0] != network.IMAGE or operands[1] not in flat:
            continue
        kernel = np.asarray(flat[operands[1]], np.float32)
        if kernel.ndim == 2:
            kernel = kernel.reshape(*images.shape[1:], -1)
        following = [x.params.get("feature_group_count", 1) for _, x in products[i + 1 :]][:1]
        groups = following[0] if following and equation.primitive.name == PRODUCTS[0] else 1
        found.append(Filters(operands[1], np.moveaxis(kernel, -1, 0), groups))
    return found


def _parameter(path: tuple) -> str | None:
    """Return the name of a parameter by its path in the inputs of a program; `None` for others."""
    _, collection, *names = (getattr(key, "key", None) for key in path)
    return "/".join(names) if collection == "params" else None


def _products(jaxpr, marks: dict) -> Iterator[tuple[tuple, Any]]:
    """Yield the marks of both operands of every product, in the order of the program.

    Args:
      jaxpr: the program.
      marks: variable → name of the parameter or image that it holds; changed in place.
    """
    for equation in jaxpr.eqns:
        held = [None if hasattr(x, "val") else marks.get(x) for x in equation.invars]
        name = equation.primitive.name
        inner = equation.params.get("jaxpr", equation.params.get("call_jaxpr"))
        if name in PRODUCTS:
            yield tuple(held[:2]), equation
        elif name in MOVES:
            marks[equation.outvars[0]] = held[0]
        elif inner is not None:
            inner = getattr(inner, "jaxpr", inner)
            inside = dict(zip(inner.invars, held, strict=False))
            yield from _products(inner, inside)
            for outer, result in zip(equation.outvars, inner.outvars, strict=False):
                marks[outer] = None if hasattr(result, "val") else inside.get(result)


def spectra(kernel: np.ndarray) -> np.ndarray:
    """Return the amplitude spectrum of each filter: float64 [N, h, w].

    The magnitude of the two-dimensional Fourier transform, averaged over the channels; frequency
    zero is in the middle.

    Args:
      kernel: float [N, h, w, C].
    """
    transformed = np.fft.fft2(np.asarray(kernel, np.float64), axes=(1, 2))
    return np.fft.fftshift(np.abs(transformed), axes=(1, 2)).mean(axis=-1)


def mean_frequency(kernel: np.ndarray) -> np.ndarray:
    """Return the mean spatial frequency of each filter in cycles per pixel: float64 [N].

    Each frequency counts with its power. 0 is a constant filter, 0.5 an alternating one along one
    axis.
    """
    power = spectra(kernel) ** 2
    rows, columns = (np.fft.fftshift(np.fft.fftfreq(side)) for side in kernel.shape[1:3])
    radius = np.hypot(rows[:, None], columns[None, :])
    return (power * radius).sum(axis=(1, 2)) / np.maximum(power.sum(axis=(1, 2)), 1e-30)


def principal_components(kernel: np.ndarray, count: int = 28) -> tuple[np.ndarray, np.ndarray]:
    """Return the principal components of filters, as in figure 7 (left) of the ViT paper.

    Args:
      kernel: float [N, h, w, C].
      count: largest number of components.

    Returns:
      `(components [count, h, w, C] of length one, share of the variance [count])`, the largest
      variance first. The sign of a component is arbitrary; its largest value is made positive.
    """
    rows = np.asarray(kernel, np.float64).reshape(len(kernel), -1)
    rows = rows - rows.mean(axis=0)
    _, values, components = np.linalg.svd(rows, full_matrices=False)
    largest = np.take_along_axis(components, np.abs(components).argmax(axis=1)[:, None], axis=1)
    components = components * np.where(largest < 0, -1, 1)
    share = values**2 / max((values**2).sum(), 1e-30)
    count = min(count, len(components))
    return components[:count].reshape(count, *kernel.shape[1:]), share[:count]


def position_similarity(positions: np.ndarray, grid: places.Grid) -> np.ndarray:
    """Return the cosine of every pair of position embeddings, as in figure 7 (centre) of the paper.

    Args:
      positions: float [1, T, D] or [T, D], of all tokens, or of the patches only.
      grid: places of the tokens.

    Returns:
      float64 [rows, columns, rows, columns].
    """
    positions = np.asarray(positions, np.float64).reshape(-1, positions.shape[-1])
    index = grid.tokens.reshape(-1)
    if len(positions) < grid.length:  # positions without those of the other tokens
        index = np.argsort(np.argsort(index))
    chosen = positions[index]
    chosen = chosen / np.maximum(np.linalg.norm(chosen, axis=1, keepdims=True), 1e-30)
    return (chosen @ chosen.T).reshape(*grid.tokens.shape, *grid.tokens.shape)


def positions(variables: Mapping) -> dict[str, np.ndarray]:
    """Return every learned position embedding, by the path of the parameter."""
    flat = flax.traverse_util.flatten_dict(variables["params"], sep="/")
    return {k: np.asarray(x) for k, x in flat.items() if k.split("/")[-1] == POSITIONS}


def bias_tables(
    model: nn.Module, variables: Mapping, image_size: tuple[int, int]
) -> dict[str, np.ndarray]:
    """Return the relative position biases of a Swin (version 1) as maps over offsets.

    Args:
      model: any module; only a Swin has bias tables.
      variables: its variables.
      image_size: height and width of the images, which decide the windows.

    Returns:
      Path of the parameter → float32 [heads, 2·h − 1, 2·w − 1] for windows of h×w tokens. The
      middle is the offset zero; the offset is from key to query.
    """
    if not isinstance(model, swin.Swin):
        return {}
    flat = flax.traverse_util.flatten_dict(variables["params"], sep="/")
    windows = swin.stage_windows(model, image_size)
    found = {}
    for name, table in flat.items():
        if name.split("/")[-1] == BIAS_TABLE:
            height, width = windows[int(name.split("/")[0].removeprefix("layers_"))]
            shape = (-1, 2 * height - 1, 2 * width - 1)
            found[name] = np.asarray(table, np.float32).T.reshape(shape)
    return found
