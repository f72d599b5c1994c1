"""Division of a machine into slots, on simulated machines."""

import importlib.metadata
import math
import os
import subprocess
import sys

import pytest

from cv_jax.errors import InputError
from cv_jax.sweep import slots


@pytest.fixture
def machine(monkeypatch):
    """`machine(gpus=8, cores=16)` simulates a machine."""

    def make(gpus=0, chips=0, cores=16, **environment):
        for name in ("JAX_PLATFORMS", "CUDA_VISIBLE_DEVICES", "TPU_VISIBLE_DEVICES"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv("XLA_PYTHON_CLIENT_MEM_FRACTION", raising=False)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(cores)))
        plugin = importlib.metadata.EntryPoint("xla_cuda13", "x", "jax_plugins")
        plugins = [plugin] if gpus else []
        monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: plugins)
        listed = subprocess.CompletedProcess([], 0, "".join(f"{i}\n" for i in range(gpus)))
        monkeypatch.setattr(subprocess, "run", lambda *_, **__: listed)
        spec = object() if chips else None
        monkeypatch.setattr(slots.importlib.util, "find_spec", lambda name: spec)
        files = [f"/dev/accel{i}" for i in range(chips)]
        monkeypatch.setattr(slots.glob, "glob", lambda pattern: files * ("accel" in pattern))

    return make


def test_slots_have_one_gpu_several_gpus_or_a_share(machine):
    machine(gpus=8)
    plan = slots.plan()
    assert (plan.platform, plan.devices, len(plan.slots)) == ("gpu", 1, 8)
    assert [slot.environment for slot in plan.slots] == [
        {"CUDA_VISIBLE_DEVICES": str(i)} for i in range(8)
    ]
    assert plan.slots[1].cores == (2, 3)

    plan = slots.plan(2)
    assert plan.devices == 4
    assert [slot.environment["CUDA_VISIBLE_DEVICES"] for slot in plan.slots] == [
        "0,1,2,3",
        "4,5,6,7",
    ]
    shared = slots.plan(24).slots
    devices = [slot.environment["CUDA_VISIBLE_DEVICES"] for slot in shared]
    assert devices == [str(i) for i in range(8) for _ in range(3)]
    fractions = {slot.environment["XLA_PYTHON_CLIENT_MEM_FRACTION"] for slot in shared}
    assert fractions == {"0.250"}
    assert {slot.cores for slot in shared} == {()}  # 16 cores do not divide by 24
    assert len({slot.name for slot in shared}) == 24
    for count in (3, 5, 12):
        with pytest.raises(InputError, match="divide into 1, 2, 4, 8 slots, or a multiple of 8"):
            slots.plan(count)


@pytest.mark.parametrize("count", [1, 2, 4, 8, 16, 40])
def test_every_device_has_equally_many_slots_and_every_core_at_most_one(machine, count):
    machine(gpus=4, cores=61, XLA_PYTHON_CLIENT_MEM_FRACTION="0.9")
    plan = slots.plan(count)
    seen = [slot.environment["CUDA_VISIBLE_DEVICES"].split(",") for slot in plan.slots]
    flat = sorted(sum(seen, []))
    assert flat == sorted("0123" * (len(flat) // 4))
    cores = [core for slot in plan.slots for core in slot.cores]
    assert len(cores) == len(set(cores))
    assert len({len(slot.cores) for slot in plan.slots}) == 1
    if count > 4:
        share = float(plan.slots[0].environment["XLA_PYTHON_CLIENT_MEM_FRACTION"])
        assert share * count / 4 <= 0.9
        assert math.isclose(share * count / 4, 0.9, abs_tol=0.01)


def test_only_visible_devices_are_used(machine):
    machine(gpus=8, CUDA_VISIBLE_DEVICES="5,GPU-abc")
    shown = [slot.environment["CUDA_VISIBLE_DEVICES"] for slot in slots.plan().slots]
    assert shown == ["5", "GPU-abc"]
    machine(gpus=8, CUDA_VISIBLE_DEVICES="")
    assert slots.plan().platform == "cpu"
    machine(gpus=8, JAX_PLATFORMS="cpu")
    assert slots.plan().platform == "cpu"
    for none in ("-1", "-1,0", "NoDevFiles"):
        machine(gpus=8, CUDA_VISIBLE_DEVICES=none)
        assert slots.plan().platform == "cpu"
    machine(gpus=8, CUDA_VISIBLE_DEVICES="3,-1,4")
    assert [slot.name for slot in slots.plan().slots] == ["gpu 3"]
    for name in ("cuda", "metal", "tpu,cpu"):
        machine(JAX_PLATFORMS=name)
        first = name.partition(",")[0]
        with pytest.raises(
            InputError, match=f"JAX_PLATFORMS={first}: .* available on this machine: cpu$"
        ):
            slots.plan()


def test_slots_that_share_a_gpu_share_its_memory(machine):
    def shares(**environment):
        machine(gpus=1, **environment)
        return [slot.environment for slot in slots.plan(2).slots]

    old, new = "XLA_PYTHON_CLIENT_MEM_FRACTION", "XLA_CLIENT_MEM_FRACTION"
    assert [own[old] for own in shares()] == ["0.375", "0.375"]
    assert [own[old] for own in shares(**{old: "0.9"})] == ["0.450", "0.450"]
    assert [own[new] for own in shares(**{new: "0.5"})] == ["0.250", "0.250"]
    assert old not in shares(**{new: "0.5"})[0]  # JAX refuses to start with both
    for value in ("nonsense", "0", "-1", "nan"):
        with pytest.raises(InputError, match=f"{old}={value} is not a positive number"):
            shares(**{old: value, new: ""})


def test_tpu_chips(machine):
    machine(chips=4)
    plan = slots.plan(2)
    assert (plan.platform, plan.devices) == ("tpu", 2)
    first, second = (slot.environment for slot in plan.slots)
    assert first["TPU_VISIBLE_DEVICES"] == "0,1"
    assert second["TPU_VISIBLE_DEVICES"] == "2,3"
    assert first["TPU_CHIPS_PER_PROCESS_BOUNDS"] == "1,2,1"
    assert first["TPU_PROCESS_BOUNDS"] == "1,1,1"
    assert first["TPU_PROCESS_PORT"] != second["TPU_PROCESS_PORT"]
    with pytest.raises(InputError, match="a TPU chip takes one process"):
        slots.plan(8)


def test_cores_are_divided_equally(machine):
    machine(cores=7)
    assert [slot.cores for slot in slots.plan().slots] == [tuple(range(7))]
    assert [slot.cores for slot in slots.plan(2).slots] == [(0, 1, 2), (3, 4, 5)]
    assert [slot.name for slot in slots.plan(2).slots] == ["cores 0-2", "cores 3-5"]
    with pytest.raises(InputError, match="there are 7 cores"):
        slots.plan(8)


def test_a_system_without_core_affinity_accepts_any_number(machine, monkeypatch):
    machine()
    monkeypatch.delattr(os, "sched_getaffinity")
    assert [(slot.name, slot.cores) for slot in slots.plan(3).slots] == [("cpu", ())] * 3


def test_the_thread_pool_of_xla_follows_the_cores():
    """Slots rely on one XLA thread for each core of the process."""
    code = """
import os, sys
os.sched_setaffinity(0, {int(core) for core in sys.argv[1].split(",")})
import jax.numpy as jnp
(jnp.ones((512, 512)) @ jnp.ones((512, 512))).block_until_ready()
tasks = os.listdir("/proc/self/task")
print(sum("XLAEigen" in open(f"/proc/self/task/{t}/comm").read() for t in tasks))
"""
    cores = sorted(os.sched_getaffinity(0))
    for own in (cores[:1], cores[:2]):
        process = subprocess.run(
            [sys.executable, "-c", code, ",".join(map(str, own))],
            env={**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""},
            capture_output=True,
            text=True,
            check=True,
        )
        assert int(process.stdout) == len(own)
