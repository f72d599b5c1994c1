"""Collective operations of a compiled program, parsed from its HLO text."""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2, "f32": 4, "s32": 4}
BYTES |= {"u32": 4, "f64": 8, "s64": 8, "u64": 8, "c64": 8}
KINDS = "all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute"
_INSTRUCTION = re.compile(rf"^\s*(?:ROOT )?%?\S+ = (.*?) ({KINDS})(-start)?\((.*)$")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.$-]+) .*\{$")
_CALLED = re.compile(r"(?:calls|to_apply|body|condition)=%?([\w.$-]+)")
_TRIPS = re.compile(r'known_trip_count":\{"n":"(\d+)"')
_ARRAY = re.compile(r"\b([a-z]+\d*)\[([\d,]*)\]")


class Collective(NamedTuple):
    """One collective operation of a program.

    Attributes:
      kind: all-reduce, all-gather, reduce-scatter, all-to-all or collective-permute.
      payload: bytes of the reduced, gathered, scattered or sent array.
      group: number of devices in a replica group.
      runs: executions in one run of the program.
    """

    kind: str
    payload: int
    group: int
    runs: int

    @property
    def sent(self) -> float:
        """Bytes that each device sends in all runs with a ring algorithm.

        That is (n − 1)/n of the payload, and twice as much for an all-reduce.
        """
        share = (self.group - 1) / self.group
        factor = {"all-reduce": 2 * share, "collective-permute": 1.0}.get(self.kind, share)
        return self.runs * factor * self.payload


def collectives(text: str) -> list[Collective]:
    """Return the collectives over more than one device, in program order.

    A collective in the body of a loop has one run for each iteration.

    Args:
      text: `jax.jit(f).lower(…).compile().as_text()`, on a CPU or GPU.
    """
    found: dict[str, list[Collective]] = {}
    calls: dict[str, list[tuple[str, int]]] = {}
    entry = name = ""
    for line in text.splitlines():
        opened = _COMPUTATION.match(line)
        if opened:
            name = opened[2]
            entry = name if opened[1] else entry
            found[name], calls[name] = [], []
            continue
        match = _INSTRUCTION.match(line)
        if match:
            payload = _payload(match[1], match[2], match[3] is not None, _group(line))
            found[name].append(Collective(match[2], payload, _group(line), 1))
            continue  # the computation that a reduction applies contains no collectives
        trips = _TRIPS.search(line)
        for called in _CALLED.findall(line):
            calls[name].append((called, int(trips[1]) if trips else 1))
    return [collective for collective in _walk(entry, 1, found, calls) if collective.group > 1]


def _walk(name, runs, found, calls) -> Iterator[Collective]:
    """Yield the collectives of a computation and of the computations that it calls."""
    for collective in found.get(name, ()):
        yield collective._replace(runs=runs)
    for called, trips in calls.get(name, ()):
        yield from _walk(called, runs * trips, found, calls)


def _payload(result: str, kind: str, started: bool, group: int) -> int:
    sizes = [
        BYTES.get(dtype, 4) * math.prod(int(n) for n in shape.split(",") if n)
        for dtype, shape in _ARRAY.findall(result)
    ]
    if started and kind == "all-gather":  # (operands, results)
        sizes = sizes[len(sizes) // 2 :]
    elif started and kind == "collective-permute":  # (operand, result, flags)
        sizes = sizes[1:2]
    return sum(sizes) * (group if kind == "reduce-scatter" else 1)


def _group(line: str) -> int:
    """Number of devices in a replica group, in any notation of XLA."""
    listed = re.search(r"replica_groups=\{\{([\d,]*)\}", line)
    if listed:
        return len(listed[1].split(","))
    iota = re.search(r"replica_groups=\[\d+,(\d+)\]<=", line)
    if iota:
        return int(iota[1])
    mesh = re.search(r"replica_groups=mesh\[(.*?)\].*?\{(.*?)\}", line)
    if mesh:
        axes = dict(re.findall(r"'([^']+)'=(\d+)", mesh[1]))
        return math.prod(int(axes[axis]) for axis in re.findall(r"'([^']+)'", mesh[2]))
    return 2  # a permutation connects pairs
