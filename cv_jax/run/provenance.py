"""Code, versions, devices and settings, recorded with every start and every measurement."""

import contextlib
import functools
import hashlib
import importlib.metadata
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax

from cv_jax.devices import jax_settings, processor

STORAGE = ("orbax-checkpoint", "tensorflow-datasets", "grain")
PACKAGES = (
    *("jax", "jaxlib", "flax", "optax", *STORAGE),
    # Packages that compute pixels; most are optional.
    *("numpy", "pillow", "simplejpeg", "opencv-python-headless", "opencv-python"),
    "cykooz.resizer",
    # Libraries of accelerators.
    *("jax-cuda12-plugin", "jax-cuda13-plugin", "nvidia-cudnn-cu12", "nvidia-cudnn-cu13"),
    *("nvidia-cublas-cu12", "nvidia-cublas", "libtpu"),
)

# Variables that choose algorithms, precision or memory of the libraries below JAX. Those of JAX are
# its settings; `XLA_FLAGS` and the number of threads have their own entries.
VARIABLES = re.compile(
    r"NVIDIA_TF32_OVERRIDE|LIBTPU_INIT_ARGS|XLA_(?!FLAGS$)\w+|CUDNN_\w+|CUBLAS\w+"
    r"|TF_(CUDNN|CUBLAS|XLA|USE|ENABLE|FORCE)_\w+"
    r"|NCCL_(ALGO|PROTO|NTHREADS|NVLS_ENABLE|COLLNET_ENABLE|M\w+_NCHANNELS)|(ONEDNN|DNNL)_\w+"
    r"|NPY_\w+_CPU_FEATURES|OPENCV_(CPU_DISABLE|IPP)|JSIMD_\w+"
)

GROUPS = ("versions", "jax_settings", "variables")  # dicts in the environment


def environment() -> dict[str, Any]:
    """Return code, packages, devices, processor, settings and variables of this process."""
    return {
        "commit": commit(),
        "code": _code(),
        "python": sys.version.split()[0],
        "versions": _versions(),
        "devices": [f"{d.platform} {d.device_kind}" for d in jax.devices()],
        "processes": jax.process_count(),
        "processor": processor.kind(),
        "cpu_threads": processor.threads(),
        "xla_flags": " ".join(os.environ.get("XLA_FLAGS", "").split()),
        "jax_settings": jax_settings.changed(),
        "variables": {k: v for k, v in sorted(os.environ.items()) if VARIABLES.fullmatch(k)},
    }


def shared() -> dict[str, Any]:
    """Return name → value of what all processes of a run must share.

    Each process compiles the program and computes the replicated values itself. On a CPU their bits
    depend on the processor and the threads.
    """
    found = environment()
    names = ["code", "python", "xla_flags"]
    if jax.default_backend() == "cpu":
        names += ["processor", "cpu_threads"]
    same = {name: found[name] for name in names}
    same["device_kind"] = jax.local_devices()[0].device_kind
    for group in GROUPS:
        same |= found[group]
    return same


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Return one line for each condition of two starts that differs and may change bits.

    Args:
      before: an earlier start in `run.json`.
      now: the new start. What one of them does not record is not compared.
    """
    names = ["processor", "processes", "xla_flags", "trials_in_one_program"]
    names += ["code"] if "code" in before else ["commit"] if before["commit"] else []
    names += ["cpu_threads"] if now["devices"][0].startswith("cpu") else []
    pairs = {name: (before[name], now[name]) for name in names if name in before and name in now}
    pairs["devices"] = _used(before), _used(now)
    for name in ("mesh.params", "mesh.fsdp_min_size", "mesh.model"):
        pairs[f"config.{name}"] = before["config"].get(name), now["config"].get(name)
    defaults = {**jax_settings.FIXED, **jax_settings.RECORDED}
    for group in (*GROUPS, "compiler_options"):
        if group in before and group in now:
            for name in sorted({*before[group], *now[group]} - set(STORAGE)):
                absent = defaults.get(name)
                pairs[name] = before[group].get(name, absent), now[group].get(name, absent)
    if "commit" in pairs:
        pairs["commit"] = tuple((commit or "unknown")[:12] for commit in pairs["commit"])
    return [f"{name}: was {a!r}, is now {b!r}" for name, (a, b) in pairs.items() if a != b]


def _used(start: dict[str, Any]) -> str:
    """Describe the devices, and how many of them the mesh uses."""
    devices = start["devices"]
    used = start["config"].get("mesh.devices") or len(devices)
    return f"{used} of {len(devices)} {devices[0]}"


@functools.cache
def _versions() -> dict[str, str]:
    """Return package → version for the packages that are installed."""
    found = {}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


@functools.cache
def _code() -> str:
    """Return twelve digits of a hash over the Python files of the package."""
    root, digest = Path(__file__).resolve().parents[1], hashlib.sha256()
    for file in sorted(root.rglob("*.py")):
        digest.update(f"{file.relative_to(root)}\0".encode() + file.read_bytes())
    return digest.hexdigest()[:12]


@functools.cache
def commit() -> str | None:
    """Return the commit of the running code, with "+" if tracked files differ from it."""
    try:
        lines = _git("status", "--porcelain=v2", "--branch", "-uno").splitlines()
    except (OSError, subprocess.CalledProcessError):
        return None
    found = lines[0].removeprefix("# branch.oid ")
    changed = any(not line.startswith("#") for line in lines)
    return None if found == "(initial)" else found + ("+" if changed else "")


def _git(*words: str) -> str:
    command = ["git", "-C", str(Path(__file__).resolve().parent), *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
