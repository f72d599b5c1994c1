"""Policies: a random sequence of operations on one image, on the device: `(key, image) → image`.

A policy draws a `Plan`, which operations with which arguments, and `run` carries it out. Under vmap
a branch for each operation would cost the sum of all; instead every layer is the same few steps: a
table of grey levels, a blend with the gray image, a blend with the smoothed one, and an affine map.
Each does nothing unless the layer's operation is of its kind.

Images are float32 [H, W, C] on the scale 0…255, C one or three; they become whole grey levels.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cv_jax.augment import levels as pillow
from cv_jax.augment.affine import affine, check, rotation, shear, translation
from cv_jax.augment.chance import check_probability, not_negative, sometimes
from cv_jax.augment.colour import on_levels

# What a plan's integers mean, and the unit of its arguments.
OPERATIONS_OF_PLANS = (
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
_NUMBER = {name: number for number, name in enumerate(OPERATIONS_OF_PLANS)}
_FACTORS = ("brightness", "contrast", "saturation", "sharpness")
_SIGNED = ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")


class Plan(NamedTuple):
    """What to do with one image, layer by layer.

    Attributes:
      operation: int32 [layers], places in `OPERATIONS_OF_PLANS`.
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
    chosen = {name: operation == number for name, number in _NUMBER.items()}
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


def _arguments(named: dict[str, jax.Array], operation: jax.Array, negative: jax.Array) -> jax.Array:
    """The argument of each layer's operation, from those of all operations by name.

    Args:
      named: operation → argument, broadcastable to [layers]; a missing one is 0.
      operation: int32 [layers].
      negative: bool [layers]: whether an argument with a sign, or a factor's distance from 1, is
        below.
    """
    argument = jnp.zeros(operation.shape, jnp.float32)
    for name, value in named.items():
        if name in _SIGNED:
            value = jnp.where(negative, -value, value)
        if name in _FACTORS:
            value = pillow.round_factor(value)
        argument = jnp.where(operation == _NUMBER[name], value, argument)
    return argument


def plan_randaugment(
    key: jax.Array,
    size: tuple[int, int],
    num_layers: int,
    magnitude: float,
    deviation: float,
    increasing: bool,
    probability: float,
) -> Plan:
    """The draws of `randaugment` for an image of (height, width)."""
    uniform_key, normal_key = jax.random.split(key)
    choice, coin, sign = jax.random.uniform(uniform_key, (3, num_layers))
    operation = 1 + jnp.floor(choice * (len(OPERATIONS_OF_PLANS) - 1)).astype(jnp.int32)
    operation = jnp.where(coin < probability, operation, 0)
    strength = jnp.full(num_layers, magnitude, jnp.float32)
    if deviation:
        strength += deviation * jax.random.normal(normal_key, (num_layers,))
    share, negative = jnp.clip(strength, 0, 10) / 10, sign < 0.5
    bits, threshold = jnp.floor(share * 4), jnp.floor(share * 256)
    if increasing:
        factor = jnp.maximum(1 + jnp.where(negative, -0.9, 0.9) * share, 0.1)
        bits, threshold = 4 - bits, 256 - threshold
    else:
        factor = 0.1 + 1.8 * share
    named = {
        "posterise": bits,
        "solarise": threshold,
        "solarise_add": jnp.floor(share * 110),
        **dict.fromkeys(_FACTORS, factor),
        "rotate": 30 * share,
        "shear_x": 0.3 * share,
        "shear_y": 0.3 * share,
        "translate_x": 0.45 * share * size[1],
        "translate_y": 0.45 * share * size[0],
    }
    return Plan(operation, _arguments(named, operation, negative))


def randaugment(
    num_layers: int = 2,
    magnitude: float = 9.0,
    deviation: float = 0.0,
    increasing: bool = True,
    probability: float = 0.5,
    method: str = "bicubic",
    fill: float | tuple[float, ...] = 128.0,
):
    """RandAugment (Cubuk et al., 2019, arXiv:1909.13719) with timm's fifteen operations and scales.

    timm's `rand-m9-n2-mstd0.5-inc1` is `randaugment(2, 9, 0.5)`. Each layer draws one operation.

    Args:
      num_layers: operations in a row (n).
      magnitude: 0…10 (m).
      deviation: standard deviation of the magnitude, which is then cut to 0…10 (mstd).
      increasing: whether posterise, solarise and the blends get stronger with the magnitude (inc).
      probability: of each layer (p).
      method: how geometric operations sample; see `affine`.
      fill: level, or one for each channel, of what comes in from outside; timm's recipes use the
        mean colour.
    """
    if num_layers < 1:
        raise ValueError(f"num_layers must be at least 1, got {num_layers}")
    if not 0 <= magnitude <= 10:
        raise ValueError(f"magnitude must be in 0…10, got {magnitude}")
    not_negative(deviation=deviation)
    check_probability(probability=probability)
    check(method, fill)

    def apply(key, image):
        plan = plan_randaugment(
            key, image.shape[:2], num_layers, magnitude, deviation, increasing, probability
        )
        return run(plan, image, method, fill)

    # The probability is that of a layer; at 0 no layer does anything.
    return sometimes(float(probability > 0), on_levels(apply))


_WIDE = tuple(name for name in OPERATIONS_OF_PLANS if name not in ("invert", "solarise_add"))
_WIDE_BINS = 31


def plan_trivialaugment(key: jax.Array) -> Plan:
    """The draws of `trivialaugment`."""
    choice, level, sign = jax.random.uniform(key, (3, 1))
    numbers = jnp.array([_NUMBER[name] for name in _WIDE])
    operation = numbers[jnp.floor(choice * len(_WIDE)).astype(jnp.int32)]
    bin_ = jnp.floor(level * _WIDE_BINS)
    share, negative = bin_ / (_WIDE_BINS - 1), sign < 0.5
    factor = 1 + jnp.where(negative, -0.99, 0.99) * share
    named = {
        "posterise": 8 - jnp.round(bin_ / 5),
        "solarise": 255 * (1 - share),
        **dict.fromkeys(_FACTORS, factor),
        "rotate": 135 * share,
        "shear_x": 0.99 * share,
        "shear_y": 0.99 * share,
        "translate_x": jnp.floor(32 * share),
        "translate_y": jnp.floor(32 * share),
    }
    return Plan(operation, _arguments(named, operation, negative))


def trivialaugment(
    method: str = "nearest", fill: float | tuple[float, ...] = 0.0, probability: float = 1.0
):
    """TrivialAugment-wide (Müller and Hutter, 2021, arXiv:2103.10158): one of fourteen operations,
    one of 31 strengths, as in torchvision.

    Args:
      method: how geometric operations sample; see `affine`.
      fill: level, or one for each channel, of what comes in from outside.
      probability: of doing so.
    """
    check(method, fill)
    apply = on_levels(lambda key, x: run(plan_trivialaugment(key), x, method, fill))
    return sometimes(probability, apply)


# Pairs of operations with their probability in tenths and their strength 0…9, from the appendix of
# Cubuk et al., 2018 (arXiv:1805.09501).
_POLICIES = {
    "imagenet": """
        posterise 4 8 rotate 6 9          solarise 6 5 autocontrast 6 5
        equalise 8 8 equalise 6 3         posterise 6 7 posterise 6 6
        equalise 4 7 solarise 2 4         equalise 4 4 rotate 8 8
        solarise 6 3 equalise 6 7         posterise 8 5 equalise 10 2
        rotate 2 3 solarise 6 8           equalise 6 8 posterise 4 6
        rotate 8 8 saturation 4 0         rotate 4 9 equalise 6 2
        equalise 0 7 equalise 8 8         invert 6 4 equalise 10 8
        saturation 6 4 contrast 10 8      rotate 8 8 saturation 10 2
        saturation 8 8 solarise 8 7       sharpness 4 7 invert 6 8
        shear_x 6 5 equalise 10 9         saturation 4 0 equalise 6 3
        equalise 4 7 solarise 2 4         solarise 6 5 autocontrast 6 5
        invert 6 4 equalise 10 8          saturation 6 4 contrast 10 8
        equalise 8 8 equalise 6 3
    """,
    "cifar10": """
        invert 1 7 contrast 2 6           rotate 7 2 translate_x 3 9
        sharpness 8 1 sharpness 9 3       shear_y 5 8 translate_y 7 9
        autocontrast 5 8 equalise 9 2     shear_y 2 7 posterise 3 7
        saturation 4 3 brightness 6 7     sharpness 3 9 brightness 7 9
        equalise 6 5 equalise 5 1         contrast 6 7 sharpness 6 5
        saturation 7 7 translate_x 5 8    equalise 3 7 autocontrast 4 8
        translate_y 4 3 sharpness 2 6     brightness 9 6 saturation 2 8
        solarise 5 2 invert 0 3           equalise 2 0 autocontrast 6 0
        equalise 2 8 equalise 6 4         saturation 9 9 equalise 6 6
        autocontrast 8 4 solarise 2 8     brightness 1 3 saturation 7 0
        solarise 4 5 autocontrast 9 3     translate_y 9 9 translate_y 7 9
        autocontrast 9 2 solarise 8 3     equalise 8 8 invert 1 3
        translate_y 7 9 autocontrast 9 1
    """,
    "svhn": """
        shear_x 9 4 invert 2 3            shear_y 9 8 invert 7 5
        equalise 6 5 solarise 6 6         invert 9 3 equalise 6 3
        equalise 6 1 rotate 9 3           shear_x 9 4 autocontrast 8 3
        shear_y 9 8 invert 4 5            shear_y 9 5 solarise 2 6
        invert 9 6 autocontrast 8 1       equalise 6 3 rotate 9 3
        shear_x 9 4 solarise 3 3          shear_y 8 8 invert 7 4
        equalise 9 5 translate_y 6 6      invert 9 4 equalise 6 7
        contrast 3 3 rotate 8 4           invert 8 5 translate_y 0 2
        shear_y 7 6 solarise 4 8          invert 6 4 rotate 8 4
        shear_y 3 7 translate_x 9 3       shear_x 1 6 invert 6 5
        solarise 7 2 translate_y 6 7      shear_y 8 4 invert 8 8
        shear_x 7 9 translate_y 8 3       shear_y 8 5 autocontrast 7 3
        shear_x 7 2 invert 1 5
    """,
}


def policy_table(policy: str) -> list[list[tuple[str, float, int]]]:
    """The pairs of a policy: [(operation, probability, strength 0…9)] of two."""
    words = _POLICIES[policy].split()
    steps = [
        (name, int(tenths) / 10, int(strength))
        for name, tenths, strength in zip(words[::3], words[1::3], words[2::3], strict=True)
    ]
    return [list(pair) for pair in zip(steps[::2], steps[1::2], strict=True)]


def plan_autoaugment(key: jax.Array, size: tuple[int, int], policy: str) -> Plan:
    """The draws of `autoaugment` for an image of (height, width)."""
    table = policy_table(policy)
    operations = np.array([[_NUMBER[name] for name, _, _ in pair] for pair in table], np.int32)
    probabilities = np.array([[p for _, p, _ in pair] for pair in table], np.float32)
    strengths = np.array([[strength for _, _, strength in pair] for pair in table], np.float32)
    draws = jax.random.uniform(key, (5,))
    row = jnp.floor(draws[0] * len(table)).astype(jnp.int32)
    coin, negative = draws[1:3], draws[3:5] < 0.5
    operation = jnp.where(coin < jnp.asarray(probabilities)[row], jnp.asarray(operations)[row], 0)
    strength = jnp.asarray(strengths)[row]
    share = strength / 9
    factor = 1 + jnp.where(negative, -0.9, 0.9) * share
    named = {
        "posterise": 8 - jnp.round(strength * 4 / 9),
        "solarise": 255 * (1 - share),
        **dict.fromkeys(_FACTORS, factor),
        "rotate": 30 * share,
        "shear_x": 0.3 * share,
        "shear_y": 0.3 * share,
        "translate_x": jnp.floor(150 / 331 * size[1] * share),
        "translate_y": jnp.floor(150 / 331 * size[0] * share),
    }
    return Plan(operation, _arguments(named, operation, negative))


def autoaugment(
    policy: str = "imagenet",
    method: str = "nearest",
    fill: float | tuple[float, ...] = 0.0,
    probability: float = 1.0,
):
    """AutoAugment (Cubuk et al., 2018, arXiv:1805.09501): one of 25 pairs of operations, with
    torchvision's scales.

    Args:
      policy: "imagenet", "cifar10" or "svhn": the data on which the pairs were found.
      method: how geometric operations sample; see `affine`.
      fill: level, or one for each channel, of what comes in from outside.
      probability: of doing so.
    """
    if policy not in _POLICIES:
        raise ValueError(f"unknown policy {policy!r}; allowed: {', '.join(_POLICIES)}")
    check(method, fill)

    def apply(key, image):
        return run(plan_autoaugment(key, image.shape[:2], policy), image, method, fill)

    return sometimes(probability, on_levels(apply))


def three_augment(probability: float = 1.0):
    """One of grayscale, solarise at 128, and a blur of 0.1…2 pixels, equally likely (Touvron et
    al., 2022, DeiT III, arXiv:2204.07118, section 3). The recipe adds `colour_jitter(0.3)`."""

    def apply(key, image):
        choice_key, radius_key = jax.random.split(key)
        choice = jax.random.randint(choice_key, (), 0, 3)
        radius = jax.random.uniform(radius_key, (), minval=0.1, maxval=2.0)
        gray = jnp.broadcast_to(pillow.grey(image), image.shape)
        blurred = pillow.gaussian_blur(image, radius, 2.0)
        return jax.lax.select_n(choice, gray, pillow.solarise(image, 128), blurred)

    return sometimes(probability, on_levels(apply))


OPERATIONS = {
    "randaugment": randaugment,
    "trivialaugment": trivialaugment,
    "autoaugment": autoaugment,
    "three_augment": three_augment,
}
