"""Plans: which operations to apply to an image, one after the other, as data.

A policy draws a plan, and `run` carries it out. Under vmap a branch for each operation would cost
the sum of all; instead every layer is the same few steps: a table of grey levels, a blend with the
grayscale image, a blend with the smoothed one, and an affine map. Each does nothing unless the
layer's operation is of its kind.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from cv_jax.augment import levels as pillow
from cv_jax.augment.affine import affine, rotation, shear, translation

# What a plan's integers mean, and the unit of its arguments.
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
    "shear_x",  # pixels a pixel
    "shear_y",
    "translate_x",  # pixels
    "translate_y",
)
NUMBER = {name: number for number, name in enumerate(OPERATIONS)}
FACTORS = ("brightness", "contrast", "saturation", "sharpness")
SIGNED = ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")


class Plan(NamedTuple):
    """What to do with one image, layer by layer.

    Attributes:
      operation: int32 [layers], places in `OPERATIONS`.
      argument: float32 [layers], in the operation's unit.
    """

    operation: jax.Array
    argument: jax.Array


def run(plan: Plan, levels: jax.Array, method: str, fill: float | tuple[float, ...]) -> jax.Array:
    """Carries out a plan on grey levels int32 [H, W, C]; see `affine` for the rest."""

    def layer(levels, plan):
        return _layer(plan.operation, plan.argument, levels, method, fill), None

    # A loop: were layers unrolled, a compiler would compute inner ones anew for each use of theirs.
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
    """The argument [layers] of each layer's operation.

    Args:
      named: operation → argument, broadcastable to [layers]; a missing one is 0.
      operation: int32 [layers].
      negative: bool [layers]: whether arguments that have a sign are below 0.
    """
    argument = jnp.zeros(operation.shape, jnp.float32)
    for name, value in named.items():
        if name in SIGNED:
            value = jnp.where(negative, -value, value)
        if name in FACTORS:
            value = pillow.round_factor(value)
        argument = jnp.where(operation == NUMBER[name], value, argument)
    return argument
