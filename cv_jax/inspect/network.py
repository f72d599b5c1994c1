"""A trained model prepared for analysis: its features, and gradients with respect to them.

Every function takes the Linen module, its variables and normalised images, and works on every model
that returns `(output, features)`. Gradients with respect to a feature come from the traced program:
the program runs with a zero added to the variable of the feature, and the zero is differentiated.
No list of layer names is needed.
"""

import functools
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cv_jax.models.encoder import unstack_blocks

IMAGE = "image"  # name of the input among the features

# Field of a model → value for analysis. Unrolled blocks, because features of scanned blocks are
# copies that the output does not depend on.
READABLE = {
    "attention_weights": True,
    "attention_implementation": "xla",
    "scan_layers": False,
    "remat_policy": "none",
    "dtype": "float32",
}
STACKS = ("blocks", "decoder_blocks")  # names of scanned blocks


def readable(model: nn.Module, variables: Mapping) -> tuple[nn.Module, dict[str, Any]]:
    """Return the same network with attention weights in its features, and its variables.

    Scanned blocks become unrolled blocks, fused attention becomes two matrix products, and the
    computation is float32. The outputs are equal to rounding.
    """
    changed = {name: value for name, value in READABLE.items() if hasattr(model, name)}
    params = variables["params"]
    if getattr(model, "scan_layers", False):
        for stack in STACKS:
            params = unstack_blocks(params, stack)
    return model.clone(**changed), {**variables, "params": params}


def run(model: nn.Module, variables: Mapping, images: jax.Array, *others: jax.Array):
    """Return `(output, features)` in evaluation mode.

    Args:
      model: the module.
      variables: its variables.
      images: float [B, H, W, C], normalised.
      *others: further inputs of the model, such as the target of a decoder or the noise of a masked
        autoencoder. Without noise a masked autoencoder gets the same mask at every call.
    """
    rngs = {"mask": jax.random.key(0)}
    return model.apply(variables, images, *others, train=False, rngs=rngs)


@functools.partial(jax.jit, static_argnums=0)
def features(
    model: nn.Module, variables: Mapping, images: jax.Array, *others: jax.Array
) -> tuple[jax.Array, OrderedDict]:
    """Return `(output, features)` of a jitted `run`.

    Inside another jitted function, and in `shapes`, the traced program is used again: tracing a
    deep model takes as long as running it.
    """
    return run(model, variables, images, *others)


def shapes(
    model: nn.Module, variables: Mapping, images: Any, *others: Any
) -> OrderedDict[str, jax.ShapeDtypeStruct]:
    """Return the shape of every feature without computing it."""
    return features.eval_shape(model, variables, images, *others)[1]


@functools.partial(jax.jit, static_argnums=(0, 4, 5))
def feature_gradients(
    model: nn.Module,
    variables: Mapping,
    images: jax.Array,
    classes: jax.Array,
    names: tuple[str, ...],
    of: str = "logit",
) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
    """Return features, and the gradient of a number with respect to each of them.

    Args:
      model: a classifier.
      variables: its variables.
      images: float [B, H, W, C], normalised.
      classes: int [B], the class of each image.
      names: features; `IMAGE` is the input.
      of: "logit": the logit of each image's class. "cross_entropy": the loss of the classes, the
        mean over the batch.

    Returns:
      `(features, gradients)`: name → array of the feature's shape. The gradient of a feature that
      the number does not depend on is zero.
    """

    def scores(images):
        logits, found = run(model, variables, images)
        found = OrderedDict(found, **{IMAGE: images})
        chosen = OrderedDict((name, found[name]) for name in names)
        if of == "cross_entropy":
            logits = -jax.nn.log_softmax(logits) / len(logits)
        return jnp.take_along_axis(logits, classes[:, None], axis=1)[:, 0], chosen

    # An addition of zero makes the input a variable of its own, like any feature.
    program, (score, chosen) = jax.make_jaxpr(lambda x: scores(x + 0.0), return_shape=True)(images)
    places = dict(zip(names, program.jaxpr.outvars[1:], strict=True))

    def total(shifts):
        moved: dict = {}  # two features may be the same variable
        for name, shift in shifts.items():
            moved[places[name]] = moved.get(places[name], 0) + shift
        score, *found = _evaluate(program, [images], moved)
        return score.sum(), dict(zip(names, found, strict=True))

    zeros = {name: jnp.zeros(x.shape, x.dtype) for name, x in chosen.items()}
    gradients, found = jax.grad(total, has_aux=True)(zeros)
    return found, gradients


def _evaluate(program: Any, arguments: Sequence[Any], shifts: Mapping[Any, jax.Array]) -> list:
    """Run a traced program, and add a shift to the value of some of its variables."""
    jaxpr = program.jaxpr
    values = dict(zip(jaxpr.constvars, program.consts, strict=True))
    values.update(zip(jaxpr.invars, arguments, strict=True))

    def read(atom):
        return atom.val if hasattr(atom, "val") else values[atom]

    for equation in jaxpr.eqns:
        params = equation.primitive.get_bind_params(equation.params)
        results = equation.primitive.bind(*map(read, equation.invars), **params)
        results = results if equation.primitive.multiple_results else [results]
        for variable, value in zip(equation.outvars, results, strict=True):
            values[variable] = value + shifts[variable] if variable in shifts else value
    return [read(atom) for atom in jaxpr.outvars]
