"""Slots: equal shares of this machine's devices and cores, each for one trial at a time.

With as many slots as devices each trial has one device; with fewer slots it has several; with a
multiple of the devices several trials share a device and its memory. On a CPU the cores are
divided. All slots are equal, so results do not depend on the slot: XLA's thread pool has one thread
for each core of its process, and the number of threads determines the order of sums.

This module does not query devices through jax, because the scheduler would then allocate their
memory.
"""

import glob
import importlib.metadata
import importlib.util
import itertools
import math
import os
import subprocess
from typing import NamedTuple

from cv_jax.devices import start
from cv_jax.errors import InputError

# Chips of one process of a TPU host → their layout, TPU_CHIPS_PER_PROCESS_BOUNDS.
CHIP_BOUNDS = {1: "1,1,1", 2: "1,2,1", 4: "2,2,1", 8: "2,4,1"}
MEMORY_FRACTION = 0.75  # of a GPU's memory, XLA's default
TPU_PORT = 8476


class Slot(NamedTuple):
    """One share of the machine.

    Attributes:
      name: name for messages, such as "gpu 0" or "cores 0-3".
      environment: environment variables of its trials.
      cores: cores of its trials; empty if they are not restricted.
    """

    name: str
    environment: dict[str, str]
    cores: tuple[int, ...]


class Plan(NamedTuple):
    """Division of the machine into slots.

    Attributes:
      platform: "cpu", "gpu" or "tpu".
      devices: number of devices of each slot.
      slots: the slots, at least one.
    """

    platform: str
    devices: int
    slots: list[Slot]


def plan(count: int | None = None) -> Plan:
    """Divide this machine into slots.

    Args:
      count: number of slots; by default one for each GPU or TPU chip, and one on a CPU.

    Raises:
      InputError: the devices or cores do not divide into so many slots.
    """
    platform, devices = find_devices()
    if count is None:
        count = max(1, len(devices))
    if count < 1:
        raise InputError(f"--slots={count} must be at least 1")
    cores = _cores(count)
    if platform == "cpu":
        available = len(_allowed_cores())
        if available and not cores:
            raise InputError(f"--slots={count}: there are {available} cores, and a trial needs one")
        return Plan(platform, 1, [Slot(_span(own), {}, own) for own in cores or [()] * count])

    total = len(devices)
    if total % count and count % total:
        allowed = [str(n) for n in range(1, total + 1) if total % n == 0]
        raise InputError(
            f"--slots={count}: {total} {platform} devices divide into {', '.join(allowed)} slots, "
            f"or a multiple of {total}"
        )
    each, sharing = max(1, total // count), max(1, count // total)
    slots = []
    for i in range(count):
        first = i // sharing * each
        own = devices[first : first + each]
        environment = _tpu(own, i, sharing) if platform == "tpu" else _gpu(own, sharing)
        name = f"{platform} {','.join(own)}" + (f" ({i % sharing + 1})" if sharing > 1 else "")
        slots.append(Slot(name, environment, cores[i] if cores else ()))
    return Plan(platform, each, slots)


def find_devices() -> tuple[str, list[str]]:
    """Return the platform that jax would choose, and the ids of its devices; none for a CPU.

    Raises:
      InputError: the environment sets a platform without devices here.
    """
    wanted = os.environ.get("JAX_PLATFORMS", "").partition(",")[0]
    platform = {"cuda": "gpu"}.get(wanted, wanted)
    found = {"gpu": _find_gpus(), "tpu": _find_chips(), "cpu": []}
    available = [name for name, devices in found.items() if devices or name == "cpu"]
    if platform and platform not in available:
        raise InputError(
            f"JAX_PLATFORMS={wanted}: sweeps find no such device; available on this machine: "
            f"{', '.join(available)}"
        )
    chosen = platform or available[0]
    return chosen, found[chosen]


def _find_gpus() -> list[str]:
    plugins = importlib.metadata.entry_points(group="jax_plugins")
    if not any("cuda" in plugin.name for plugin in plugins):
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:  # CUDA ends its list at -1, and at Slurm's NoDevFiles
        words = (word.strip() for word in visible.split(","))
        return list(itertools.takewhile(lambda word: word.isdigit() or "-" in word[1:], words))
    query = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    try:
        return subprocess.run(query, capture_output=True, text=True, check=True).stdout.split()
    except (OSError, subprocess.CalledProcessError):
        return []


def _find_chips() -> list[str]:
    if importlib.util.find_spec("libtpu") is None:
        return []
    visible = os.environ.get("TPU_VISIBLE_DEVICES")
    if visible is not None:
        return [word for word in visible.split(",") if word]
    files = glob.glob("/dev/accel[0-9]*") or glob.glob("/dev/vfio/[0-9]*")
    return [str(i) for i in range(len(files))]


def _gpu(devices: list[str], sharing: int) -> dict[str, str]:
    environment = {"CUDA_VISIBLE_DEVICES": ",".join(devices)}
    if sharing > 1:
        name, whole = start.memory_fraction()
        share = math.floor(1000 * (whole or MEMORY_FRACTION) / sharing) / 1000
        environment[name] = f"{share:.3f}"
    return environment


def _tpu(chips: list[str], index: int, sharing: int) -> dict[str, str]:
    if sharing > 1:
        raise InputError("--slots: a TPU chip takes one process; give at most one slot a chip")
    if len(chips) not in CHIP_BOUNDS:
        allowed = ", ".join(map(str, CHIP_BOUNDS))
        raise InputError(f"--slots: {len(chips)} TPU chips for each trial; allowed are {allowed}")
    port = str(TPU_PORT + index)
    return {
        "TPU_VISIBLE_DEVICES": ",".join(chips),
        "TPU_CHIPS_PER_PROCESS_BOUNDS": CHIP_BOUNDS[len(chips)],
        "TPU_PROCESS_BOUNDS": "1,1,1",
        "TPU_PROCESS_ADDRESSES": f"localhost:{port}",
        "TPU_PROCESS_PORT": port,
        "CLOUD_TPU_TASK_ID": "0",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    }


def _allowed_cores() -> list[int]:
    """Return the cores of this process; empty if the system does not report them."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


def _cores(count: int) -> list[tuple[int, ...]]:
    """Return equal shares of the cores, without a remainder; empty if there are too few cores."""
    cores = _allowed_cores()
    each = len(cores) // count
    return [tuple(cores[i * each : (i + 1) * each]) for i in range(count)] if each else []


def _span(cores: tuple[int, ...]) -> str:
    if not cores:
        return "cpu"
    if len(cores) == 1:
        return f"core {cores[0]}"
    if cores[-1] - cores[0] == len(cores) - 1:
        return f"cores {cores[0]}-{cores[-1]}"
    return f"cores {','.join(map(str, cores))}"
