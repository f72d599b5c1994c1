"""How long a study will take on this machine: an estimate from one measured convolution.

Training is counted as three forward passes, and all networks as if they reached the speed of a
convolution of medium size. Small networks and small images are slower than that, so the estimate is
good to a factor of about three.
"""

import time
from typing import NamedTuple

import jax
import jax.numpy as jnp

from cv_jax.sweep import trials
from cv_jax.sweep.points import Sweep

START = 10.0  # seconds of a process until its first step: imports, data, compilation
UPDATE = 0.002  # seconds of an update beside its products


class Cost(NamedTuple):
    """One setting of a study: its name, size, updates, and seconds of one trial."""

    name: str
    parameters: int
    multiply_adds: int
    steps: int
    seconds: float


def speed() -> float:
    """Measure multiply-adds per second of a training step, counting those of the forward pass."""
    size, channels, batch = 16, 64, 32
    image = jnp.ones((batch, size, size, channels))
    kernel = jnp.ones((3, 3, channels, channels)) / channels

    def loss(kernel, image):
        for _ in range(3):
            image = jax.nn.relu(
                jax.lax.conv_general_dilated(
                    image, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
                )
            )
        return image.sum()

    step = jax.jit(jax.grad(loss, argnums=(0, 1)))
    jax.block_until_ready(step(kernel, image))
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        jax.block_until_ready(step(kernel, image))
        best = min(best, time.perf_counter() - start)
    return 3 * batch * size**2 * 9 * channels**2 / best


def costs(sweep: Sweep, speed: float) -> list[Cost]:
    """Return the cost of each point of a sweep.

    Args:
      sweep: a sweep.
      speed: see `speed`.
    """
    found = []
    for size in trials.sizes(sweep):
        products = size.batch_size * size.multiply_adds / speed
        seconds = START + size.steps * (UPDATE + products)
        found.append(
            Cost(size.point.name, size.parameters, size.multiply_adds, size.steps, seconds)
        )
    return found
