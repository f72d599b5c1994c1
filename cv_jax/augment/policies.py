"""Policies: a random sequence of operations on one image, on the device: `(key, image) → image`.

Images are float32 [H, W, C] on the scale 0…255, C is 1 or 3. They are rounded to grey levels.
"""

import jax
import jax.numpy as jnp

from cv_jax.augment import levels as pillow
from cv_jax.augment import plan as plans
from cv_jax.augment.affine import check
from cv_jax.augment.autoaugment import autoaugment
from cv_jax.augment.chance import check_share, not_negative, sometimes
from cv_jax.augment.colour import on_levels
from cv_jax.augment.plan import FACTORS, NUMBER, Plan, choose_arguments, run


def randaugment_scale(
    magnitude: jax.Array, negative: jax.Array, increasing: bool, size: tuple[int, int]
) -> dict[str, jax.Array]:
    """Operation → argument at a magnitude 0…10, for an image of size (height, width)."""
    share = magnitude / 10
    bits, threshold = jnp.floor(share * 4), jnp.floor(share * 256)
    factor = 0.1 + 1.8 * share
    if increasing:
        bits, threshold = 4 - bits, 256 - threshold
        factor = jnp.maximum(1 + jnp.where(negative, -0.9, 0.9) * share, 0.1)
    return {
        "posterise": bits,
        "solarise": threshold,
        "solarise_add": jnp.floor(share * 110),
        **dict.fromkeys(FACTORS, factor),
        "rotate": 30 * share,
        "shear_x": 0.3 * share,
        "shear_y": 0.3 * share,
        "translate_x": 0.45 * share * size[1],
        "translate_y": 0.45 * share * size[0],
    }


def plan_randaugment(
    key: jax.Array,
    size: tuple[int, int],
    num_layers: int,
    magnitude: float,
    deviation: float,
    increasing: bool,
    probability: float,
) -> Plan:
    """Draw the plan of `randaugment` for an image of size (height, width)."""
    uniform_key, normal_key = jax.random.split(key)
    choice, coin, sign = jax.random.uniform(uniform_key, (3, num_layers))
    operation = 1 + jnp.floor(choice * (len(plans.OPERATIONS) - 1)).astype(jnp.int32)
    operation = jnp.where(coin < probability, operation, 0)
    magnitudes = jnp.full(num_layers, magnitude, jnp.float32)
    if deviation:
        magnitudes += deviation * jax.random.normal(normal_key, (num_layers,))
    negative = sign < 0.5
    named = randaugment_scale(jnp.clip(magnitudes, 0, 10), negative, increasing, size)
    return Plan(operation, choose_arguments(named, operation, negative))


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
      num_layers: number of layers (n).
      magnitude: 0…10 (m).
      deviation: standard deviation of the magnitude, clipped to 0…10 (mstd).
      increasing: whether posterise, solarise and blends get stronger with the magnitude (inc).
      probability: that a layer is applied (p).
      method: sampling of the geometric operations; see `affine`.
      fill: the level, or one level per channel, outside the input;
        timm's recipes use the mean colour.
    """
    if not 1 <= num_layers <= 100:
        raise ValueError(f"num_layers must be in 1…100, got {num_layers}")
    if not 0 <= magnitude <= 10:
        raise ValueError(f"magnitude must be in 0…10, got {magnitude}")
    not_negative(deviation=deviation)
    check_share(probability=probability)
    check(method, fill)

    def apply(key, image):
        plan = plan_randaugment(
            key, image.shape[:2], num_layers, magnitude, deviation, increasing, probability
        )
        return run(plan, image, method, fill)

    # The probability is applied per layer; at 0 the policy is the identity.
    return sometimes(float(probability > 0), on_levels(apply))


_WIDE = tuple(name for name in plans.OPERATIONS if name not in ("invert", "solarise_add"))
_WIDE_BINS = 31


def trivialaugment_scale(strength: jax.Array, negative: jax.Array) -> dict[str, jax.Array]:
    """Operation → argument at a strength 0…30."""
    share = strength / (_WIDE_BINS - 1)
    return {
        "posterise": 8 - jnp.round(strength / 5),
        "solarise": 255 * (1 - share),
        **dict.fromkeys(FACTORS, 1 + jnp.where(negative, -0.99, 0.99) * share),
        "rotate": 135 * share,
        "shear_x": 0.99 * share,
        "shear_y": 0.99 * share,
        "translate_x": jnp.floor(32 * share),
        "translate_y": jnp.floor(32 * share),
    }


def plan_trivialaugment(key: jax.Array) -> Plan:
    """Draw the plan of `trivialaugment`."""
    choice, strength, sign = jax.random.uniform(key, (3, 1))
    numbers = jnp.array([NUMBER[name] for name in _WIDE])
    operation = numbers[jnp.floor(choice * len(_WIDE)).astype(jnp.int32)]
    negative = sign < 0.5
    named = trivialaugment_scale(jnp.floor(strength * _WIDE_BINS), negative)
    return Plan(operation, choose_arguments(named, operation, negative))


def trivialaugment(
    method: str = "nearest", fill: float | tuple[float, ...] = 0.0, probability: float = 1.0
):
    """TrivialAugment-wide (Müller and Hutter, 2021, arXiv:2103.10158): one of fourteen operations,
    one of 31 strengths, as in torchvision.

    Args:
      method: sampling of the geometric operations; see `affine`.
      fill: the level, or one level per channel, outside the input.
      probability: that the operation is applied to an image.
    """
    check(method, fill)
    apply = on_levels(lambda key, x: run(plan_trivialaugment(key), x, method, fill))
    return sometimes(probability, apply)


def three_augment(probability: float = 1.0):
    """Apply grayscale, solarise at 128, or a blur of 0.1…2 pixels, with equal probability (Touvron
    et al., 2022, DeiT III, arXiv:2204.07118, section 3). The recipe adds `colour_jitter(0.3)`."""

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
