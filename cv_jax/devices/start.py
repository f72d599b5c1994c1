"""The start of JAX: what it refuses in the environment is one line and exit code 2.

JAX reads its variables when it is imported, and raises an error with a traceback. XLA ends the
process for an unknown flag. Nothing of JAX is imported here before `load_jax`.
"""

import functools
import gc
import logging
import math
import os
import re
import subprocess
import sys

from cv_jax.errors import ExitCode, InputError, one_line

# Parses XLA_FLAGS as XLA does, without importing jax and without using a device.
_PARSE_FLAGS = "from jaxlib import xla_client; xla_client.CompileOptions()"
_ADVICE = re.compile(r"\.? \((set JAX_PLATFORMS|you may need to).*\)$")
_DEVICE = r"-?\d+|(GPU|MIG)-[\w/-]+|NoDevFiles"  # of CUDA_VISIBLE_DEVICES


def after_imports() -> None:
    """Turn garbage collection on, if it is off, for objects that are made from now on.

    The objects of modules stay. Python would look through all of them time and again while modules
    are imported, which takes a fifth of the time.
    """
    if not gc.isenabled():
        gc.freeze()
        gc.enable()


def load_jax() -> None:
    """Import JAX and fix its settings; end the process if the environment is not valid."""
    try:
        if "XLA_FLAGS" in os.environ:
            check_xla_flags(os.environ["XLA_FLAGS"], f"XLA_FLAGS={os.environ['XLA_FLAGS']!r}")
        _check_visible_devices()
        memory_fraction()
        try:
            from cv_jax.devices import fused_reductions, jax_settings
        except Exception as error:
            raise InputError(f"JAX cannot be imported{_given()}: {one_line(error)}") from None
    except InputError as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        sys.exit(ExitCode.MISTAKE)
    fused_reductions.guard()
    ignored = jax_settings.fix()
    if ignored:
        reason = "cv_jax defines its types and random numbers"
        print(f"WARNING: {', '.join(ignored)} without effect: {reason}", file=sys.stderr)


def check_xla_flags(flags: str, origin: str) -> None:
    """Parse flags in another process, because XLA ends the process that has a wrong flag.

    Args:
      flags: value of XLA_FLAGS.
      origin: where the flags come from, for the message.

    Raises:
      InputError: XLA rejects a flag or its value, or cannot read the file of flags.
    """
    reason = _rejection(flags)
    if reason:
        raise InputError(f"{origin}: {reason}")


@functools.cache
def _rejection(flags: str) -> str:
    trial = subprocess.run(
        [sys.executable, "-c", _PARSE_FLAGS],
        capture_output=True,
        text=True,
        errors="replace",
        env={**os.environ, "XLA_FLAGS": flags},
    )
    if not trial.returncode:
        return ""
    # "F1126 18:53:04.470006 19742 parse_flags_from_env.cc:234] Unknown flag in XLA_FLAGS: …"
    found = re.findall(r"^[EF]\d{4} \S+ +\d+ [\w.]+:\d+\] (.*)", trial.stderr, re.M)
    return one_line(found[0] if found else trial.stderr or "rejected by XLA", 300)


def _check_visible_devices() -> None:
    """CUDA ends its list at a name that it does not know, and JAX then uses the CPU."""
    text = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    for word in filter(None, text.split(",")):
        if not re.fullmatch(_DEVICE, word.strip()):
            raise InputError(
                f"CUDA_VISIBLE_DEVICES={text}: {word!r} is neither the number nor the UUID of a GPU"
            )


def memory_fraction() -> tuple[str, float | None]:
    """Return name and value of the variable for the share of a GPU's memory; `None` without one.

    Raises:
      InputError: the value is not a positive number.
    """
    old, new = "XLA_PYTHON_CLIENT_MEM_FRACTION", "XLA_CLIENT_MEM_FRACTION"
    name = new if os.environ.get(new) else old
    text = os.environ.get(name) or None
    try:
        value = None if text is None else float(text)
    except ValueError:
        value = math.nan
    if value is not None and not 0 < value < math.inf:
        raise InputError(f"{name}={text} is not a positive number")
    return name, value


def check_devices() -> None:
    """Start the devices, and compute one number on the first.

    Raises:
      InputError: JAX has no such device, or refuses to compute.
    """
    import jax
    import numpy as np
    from jax._src.config import enable_compilation_cache

    try:
        jax.devices()
        with enable_compilation_cache(False):  # the cache has programs of runs only
            jax.block_until_ready(jax.jit(lambda x: x + 1)(np.float32(1)))
    except Exception as error:
        reason, wanted = _ADVICE.sub("", one_line(error, 300)), jax.config.jax_platforms
        if not wanted:
            raise InputError(f"JAX cannot compute{_given()}: {reason}") from None
        available = ", ".join(_available()) or "no device"
        reason = "there is no such device" if isinstance(error, AssertionError) else reason
        raise InputError(
            f"JAX_PLATFORMS={wanted}: {reason}; available on this machine: {available}"
        ) from None


def _available() -> list[str]:
    """Return the platforms that JAX finds by itself. The process must end afterwards."""
    import jax
    from jax._src import xla_bridge

    logging.disable()
    try:
        jax.config.update("jax_platforms", None)
        xla_bridge._clear_backends()
        return sorted(xla_bridge.backends())
    except Exception:
        return []


def _given() -> str:
    """Return " with NAME=VALUE, …" for the variables of JAX and XLA in the environment."""
    found = [
        f"{name}={value}"
        for name, value in sorted(os.environ.items())
        if name.startswith(("JAX_", "XLA_"))
    ]
    return f" with {', '.join(found)}" if found else ""
