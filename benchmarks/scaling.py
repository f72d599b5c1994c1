"""Estimate data parallelism and FSDP on many chips: the table of docs/several_hosts.md.

    python benchmarks/scaling.py

A calculation, not a measurement; docs/several_hosts.md states its assumptions.
benchmarks/collectives.py checks on compiled programs that a step sends no more than assumed here.
"""

import math
from typing import NamedTuple

from cv_jax import models

UTILISATION = 0.4  # share of the peak FLOPs, without communication
LATENCY = 5e-6  # seconds of one message


class Chip(NamedTuple):
    """Published peak performance.

    Attributes:
      name: name of the chip.
      flops: dense bfloat16 operations a second.
      node: number of chips in a fast network.
      near: bytes a second that a chip sends within its node.
      far: bytes a second that a chip sends to other nodes.
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
    """Seconds to reduce-scatter, or to gather, a payload over `chips` chips.

    First within each node, then the remaining shard between chips of equal rank.
    """
    near = min(chip.node, chips)
    nodes = chips // near
    seconds = payload * (near - 1) / near / chip.near
    seconds += payload / near * (nodes - 1) / nodes / chip.far
    return seconds + math.log2(chips) * LATENCY


def step(chip: Chip, chips: int, name: str, batch: int) -> tuple[float, float]:
    """Seconds of computation and of communication of one step.

    Replicated parameters and FSDP send the same number of bytes: a reduce-scatter of the gradients,
    and a gather of the gradients or of the updated parameters.

    Args:
      chip: type of chip.
      chips: number of chips.
      name: name of the model.
      batch: examples on each chip.
    """
    card = models.card(name)
    compute = 6 * card.multiply_adds * batch / (chip.flops * UTILISATION)
    return compute, 2 * exchange(chip, chips, 4 * card.parameters)


def main():
    """Print the table."""
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
