"""What the program is and runs on: recorded with every start and every measurement."""

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax

PACKAGES = (
    *("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "tensorflow-datasets", "grain"),
    # These make the pixels; the last may be missing.
    *("numpy", "pillow", "simplejpeg", "opencv-python-headless", "cykooz.resizer"),
)


def environment() -> dict[str, Any]:
    """What the program is and runs on."""
    return {
        "commit": commit(),
        "python": sys.version.split()[0],
        "versions": {name: _version(name) for name in PACKAGES},
        "devices": [f"{d.platform} {d.device_kind}" for d in jax.devices()],
        "processes": jax.process_count(),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
    }


def _version(package: str) -> str | None:
    """None where it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def commit() -> str | None:
    """The commit of the code that is running, with "+" if files differ from it."""
    root = Path(__file__).resolve().parent.parent
    try:
        git = ["git", "-C", str(root)]
        commit = subprocess.run(
            [*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True
        ).stdout.strip()
        dirty = subprocess.run(
            [*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit + ("+" if dirty else "")
