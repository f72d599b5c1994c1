"""Slots: equal shares of this machine's devices and cores, one trial at a time in each.

As many slots as devices give every trial a device; fewer give it several; a multiple of them puts
several trials on each, which then share its memory. On a CPU the cores are divided. All slots are
alike, so that what a trial computes does not depend on the slot that it comes to lie in: XLA's
thread pool has one thread for each core that its process may use, and their number decides the
order of sums.

Nothing here asks jax for its devices: the process that starts trials would take their memory.
"""

import glob
import importlib.metadata
import importlib.util
import math
import os
import subprocess
from typing import NamedTuple

from cv_jax.errors import InputError

# Chips that one process of a TPU host may have → how they lie: TPU_CHIPS_PER_PROCESS_BOUNDS.
CHIP_BOUNDS = {1: "1,1,1", 2: "1,2,1", 4: "2,2,1", 8: "2,4,1"}
MEMORY_FRACTION = 0.75  # what XLA takes of a GPU's memory unless told otherwise
TPU_PORT = 8476


class Slot(NamedTuple):
    """One share.

    Attributes:
      name: for the reader: "gpu 0", "cores 0-3".
      environment: variables of its trials.
      cores: those that its trials may run on; empty if that cannot be said or is all of them.
    """

    name: str
    environment: dict[str, str]
    cores: tuple[int, ...]


class Plan(NamedTuple):
    """The slots, and what each of them holds.

    Attributes:
      platform: "cpu", "gpu" or "tpu".
      devices: devices of that platform that a trial sees.
      slots: at least one.
    """

    platform: str
    devices: int
    slots: list[Slot]


def plan(count: int | None = None) -> Plan:
    """Divides this machine.

    Args:
      count: how many slots; by default one for each GPU or TPU chip, and one on a CPU.

    Raises:
      InputError: the devices or cores cannot be divided so.
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
    """The platform that trials will run on, as jax would choose it, and the ids of its devices.

    Raises:
      InputError: the environment asks for a platform whose devices are not found.
    """
    wanted = os.environ.get("JAX_PLATFORMS", "").partition(",")[0]
    if wanted == "cpu":
        return "cpu", []
    if wanted not in ("", "cuda", "gpu", "tpu"):
        raise InputError(f"JAX_PLATFORMS={wanted}: sweeps run on cpu, cuda or tpu")
    found = {} if wanted == "tpu" else {"gpu": _find_gpus()}
    if wanted in ("", "tpu"):
        found["tpu"] = _find_chips()
    for platform, devices in found.items():
        if devices:
            return platform, devices
    if wanted:
        raise InputError(f"JAX_PLATFORMS={wanted}: there is no such device here")
    return "cpu", []


def _find_gpus() -> list[str]:
    plugins = importlib.metadata.entry_points(group="jax_plugins")
    if not any("cuda" in plugin.name for plugin in plugins):
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [word for word in visible.split(",") if word]
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
        whole = float(os.environ.get("XLA_PYTHON_CLIENT_MEM_FRACTION", MEMORY_FRACTION))
        share = math.floor(1000 * whole / sharing) / 1000
        environment["XLA_PYTHON_CLIENT_MEM_FRACTION"] = f"{share:.3f}"
    return environment


def _tpu(chips: list[str], index: int, sharing: int) -> dict[str, str]:
    if sharing > 1:
        raise InputError("--slots: a TPU chip takes one process; ask for no more slots than chips")
    if len(chips) not in CHIP_BOUNDS:
        allowed = ", ".join(map(str, CHIP_BOUNDS))
        raise InputError(f"--slots: {len(chips)} TPU chips a trial; possible are {allowed}")
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
    """The cores that this process may use; none where the system does not say."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


def _cores(count: int) -> list[tuple[int, ...]]:
    """Equal shares of the cores; what does not divide stays unused. None if there are too few."""
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
