"""Commit, package versions and devices, recorded with every start and every measurement."""

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax

PACKAGES = (
    *("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "tensorflow-datasets", "grain"),
    # Packages that compute pixels; the last is optional.
    *("numpy", "pillow", "simplejpeg", "opencv-python-headless", "cykooz.resizer"),
)


def environment() -> dict[str, Any]:
    """Return commit, Python and package versions, devices, processes and XLA flags."""
    return {
        "commit": commit(),
        "python": sys.version.split()[0],
        "versions": {name: _version(name) for name in PACKAGES},
        "devices": [f"{d.platform} {d.device_kind}" for d in jax.devices()],
        "processes": jax.process_count(),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
    }


def _version(package: str) -> str | None:
    """Version of a package; `None` if it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def commit() -> str | None:
    """Return the commit of the running code, with "+" if tracked files differ from it."""
    try:
        return _git("rev-parse", "HEAD") + ("+" if _git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(*words: str) -> str:
    command = ["git", "-C", str(Path(__file__).resolve().parent), *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
