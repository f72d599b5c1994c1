"""Projects data parallelism and FSDP to many chips; prints the table of docs/scaling.md.

    python benchmarks/scaling.py

A model of arithmetic, not a measurement: docs/scaling.md states what it assumes. What is counted in
compiled programs (benchmarks/collectives.py) is that a step sends no more than is reckoned here.
"""

import math
from typing import NamedTuple

from cv_jax import models

UTILISATION = 0.4  # of the peak, in a step that waits for nobody
LATENCY = 5e-6  # seconds, of one message


class Chip(NamedTuple):
    """Published peaks.

    Attributes:
      name: what it is called.
      flops: dense bfloat16 operations a second.
      node: chips that are joined by the fast network.
      near: bytes a second that a chip sends to those of its node.
      far: bytes a second that a chip sends to others.
    """

    name: str
    flops: float
    node: int
    near: float
    far: float


CHIPS = [
    Chip("H100 SXM", 989e12, 8, 450e9, 50e9),
    Chip("TPU v5p", 459e12, 8960, 600e9, 600e9),
]


def exchange(chip: Chip, chips: int, payload: float) -> float:
    """Seconds to reduce-scatter, or to gather, a payload over so many chips.

    First within the nodes, then what is left of it between those of equal rank.
    """
    near = min(chip.node, chips)
    nodes = chips // near
    seconds = payload * (near - 1) / near / chip.near
    seconds += payload / near * (nodes - 1) / nodes / chip.far
    return seconds + math.log2(chips) * LATENCY


def step(chip: Chip, chips: int, name: str, batch: int) -> tuple[float, float]:
    """Seconds of computation, and of sending, of one step.

    Replicated parameters and FSDP send the same: the sum of the gradients is scattered, and then
    gathered itself, or what it has made of the parameters.

    Args:
      chip: of which sort.
      chips: how many.
      name: the model, from the registry.
      batch: examples on each chip.
    """
    card = models.card(name)
    compute = 6 * card.multiply_adds * batch / (chip.flops * UTILISATION)
    return compute, 2 * exchange(chip, chips, 4 * card.parameters)


def main():
    """Prints the table."""
    print("| chip | model | examples a chip | chips | computes | sends | efficiency |")
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: |")
    for chip in CHIPS:
        for name, batch in (
            ("resnet50", 64),
            ("vit_b16", 4),
            ("vit_b16", 16),
            ("vit_b16", 64),
            ("vit_l16", 4),
            ("vit_l16", 16),
        ):
            for chips in (256, 4096):
                compute, sent = step(chip, chips, name, batch)
                worst, best = compute / (compute + sent), compute / max(compute, sent)
                print(
                    f"| {chip.name} | {name} | {batch} | {chips:,} | {compute * 1e3:.1f} ms "
                    f"| {sent * 1e3:.1f} ms | {worst:.0%} to {best:.0%} |"
                )


if __name__ == "__main__":
    main()
