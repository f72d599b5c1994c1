"""Plans: the sequence of operations on an image, as arrays.

A policy draws a plan, `run` applies it. Under vmap, a branch per operation would cost the sum of
all branches. Instead, every layer runs the same four steps: a lookup table of grey levels, a blend
with the grayscale image, a blend with the smoothed image, and an affine map. Steps that the layer's
operation does not use are the identity.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from cv_jax.augment import levels as pillow
from cv_jax.augment.affine import affine, rotation, shear, translation

# Operations by number, with the unit of the argument.
OPERATIONS = (
    "identity",
    "autocontrast",
    "equalise",
    "invert",
    "posterise",  # bits kept
    "solarise",  # threshold
    "solarise_add",  # levels
    "brightness",  # factor
    "contrast",  # factor
    "saturation",  # factor
    "sharpness",  # factor
    "rotate",  # degrees, counter-clockwise
    "shear_x",  # pixels per pixel
    "shear_y",
    "translate_x",  # pixels
    "translate_y",
)
NUMBER = {name: number for number, name in enumerate(OPERATIONS)}
FACTORS = ("brightness", "contrast", "saturation", "sharpness")
SIGNED = ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")


class Plan(NamedTuple):
    """The operations on one image, layer by layer.

    Attributes:
      operation: int32 [layers], indices into `OPERATIONS`.
      argument: float32 [layers], in the unit of the operation.
    """

    operation: jax.Array
    argument: jax.Array


def run(plan: Plan, levels: jax.Array, method: str, fill: float | tuple[float, ...]) -> jax.Array:
    """Apply a plan to grey levels int32 [H, W, C]; see `affine` for `method` and `fill`."""

    def layer(levels, plan):
        return _layer(plan.operation, plan.argument, levels, method, fill), None

    # A loop: with unrolled layers, the compiler recomputes inner layers for each of their uses.
    return jax.lax.scan(layer, levels, plan)[0]


def _layer(operation, argument, levels, method, fill):
    height, width, _ = levels.shape
    chosen = {name: operation == number for name, number in NUMBER.items()}
    amount = argument.astype(jnp.int32)

    every = jnp.broadcast_to(pillow.LEVELS[:, None], (256, 1, levels.shape[-1]))
    tables = {
        "autocontrast": pillow.autocontrast(every, *pillow.extremes(levels)),
        "equalise": pillow.equalise_table(pillow.histogram(levels))[:, None],
        "invert": pillow.invert(every),
        "posterise": pillow.posterise(every, amount),
        "solarise": pillow.solarise(every, argument),
        "solarise_add": pillow.solarise_add(every, amount),
        "brightness": pillow.brightness(every, argument),
        "contrast": pillow.contrast(every, argument, pillow.mean_grey(levels)),
    }
    table = jnp.select([chosen[name] for name in tables], list(tables.values()), every)
    levels = pillow.look_up(levels, table)
    levels = pillow.saturation(levels, jnp.where(chosen["saturation"], argument, 1.0))
    levels = pillow.sharpness(levels, jnp.where(chosen["sharpness"], argument, 1.0))

    zero = jnp.zeros_like(argument)
    matrices = {
        "rotate": rotation(argument, height, width),
        "shear_x": shear(argument, zero),
        "shear_y": shear(zero, argument),
        "translate_x": translation(argument, zero),
        "translate_y": translation(zero, argument),
    }
    matrix = jnp.select(
        [chosen[name] for name in matrices], list(matrices.values()), translation(zero, zero)
    )
    return affine(levels, matrix, method, fill)


def choose_arguments(
    named: dict[str, jax.Array], operation: jax.Array, negative: jax.Array
) -> jax.Array:
    """Return the argument of each layer's operation, float32 [layers].

    Args:
      named: operation → argument, broadcastable to [layers]; 0 for missing operations.
      operation: int32 [layers].
      negative: bool [layers]: whether signed arguments are negated.
    """
    argument = jnp.zeros(operation.shape, jnp.float32)
    for name, value in named.items():
        if name in SIGNED:
            value = jnp.where(negative, -value, value)
        if name in FACTORS:
            value = pillow.round_factor(value)
        argument = jnp.where(operation == NUMBER[name], value, argument)
    return argument
