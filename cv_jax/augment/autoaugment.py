"""AutoAugment (Cubuk et al., 2018, arXiv:1805.09501): a table of pairs of operations."""

import jax
import jax.numpy as jnp

from cv_jax.augment.affine import check
from cv_jax.augment.chance import sometimes
from cv_jax.augment.colour import on_levels
from cv_jax.augment.plan import FACTORS, NUMBER, Plan, choose_arguments, run

# Pairs of (operation, probability in tenths, strength 0…9), from the appendix of the paper.
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
    """Return the pairs of a policy; each is two tuples (operation, probability, strength 0…9)."""
    words = _POLICIES[policy].split()
    steps = [
        (name, int(tenths) / 10, int(strength))
        for name, tenths, strength in zip(words[::3], words[1::3], words[2::3], strict=True)
    ]
    return [list(pair) for pair in zip(steps[::2], steps[1::2], strict=True)]


def autoaugment_scale(
    strength: jax.Array, negative: jax.Array, size: tuple[int, int]
) -> dict[str, jax.Array]:
    """Operation → argument at a strength 0…9, for an image of size (height, width)."""
    share = strength / 9
    return {
        "posterise": 8 - jnp.round(strength * 4 / 9),
        "solarise": 255 * (1 - share),
        **dict.fromkeys(FACTORS, 1 + jnp.where(negative, -0.9, 0.9) * share),
        "rotate": 30 * share,
        "shear_x": 0.3 * share,
        "shear_y": 0.3 * share,
        "translate_x": jnp.floor(150 / 331 * size[1] * share),
        "translate_y": jnp.floor(150 / 331 * size[0] * share),
    }


def plan_autoaugment(key: jax.Array, size: tuple[int, int], policy: str) -> Plan:
    """Draw the plan of `autoaugment` for an image of size (height, width)."""
    table = policy_table(policy)
    operations = jnp.array([[NUMBER[name] for name, _, _ in pair] for pair in table], jnp.int32)
    probabilities = jnp.array([[p for _, p, _ in pair] for pair in table], jnp.float32)
    strengths = jnp.array([[strength for _, _, strength in pair] for pair in table], jnp.float32)
    draws = jax.random.uniform(key, (5,))
    row = jnp.floor(draws[0] * len(table)).astype(jnp.int32)
    operation = jnp.where(draws[1:3] < probabilities[row], operations[row], 0)
    negative = draws[3:5] < 0.5
    named = autoaugment_scale(strengths[row], negative, size)
    return Plan(operation, choose_arguments(named, operation, negative))


def autoaugment(
    policy: str = "imagenet",
    method: str = "nearest",
    fill: float | tuple[float, ...] = 0.0,
    probability: float = 1.0,
):
    """Apply one of 25 pairs of operations, with torchvision's scales: `(key, image) → image`.

    Args:
      policy: "imagenet", "cifar10" or "svhn": the dataset of the policy search.
      method: sampling of the geometric operations; see `affine`.
      fill: the level, or one level per channel, outside the input.
      probability: that the operation is applied to an image.
    """
    if policy not in _POLICIES:
        raise ValueError(f"unknown policy {policy!r}; allowed: {', '.join(_POLICIES)}")
    check(method, fill)

    def apply(key, image):
        return run(plan_autoaugment(key, image.shape[:2], policy), image, method, fill)

    return sometimes(probability, on_levels(apply))
