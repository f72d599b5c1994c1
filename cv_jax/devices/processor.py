"""The processor of this machine: what XLA compiles for, and how many threads share its work."""

import hashlib
import os
import platform
import re
from pathlib import Path

# Lines of /proc/cpuinfo that identify the kind of processor, on x86 and on Arm.
_LINES = ("vendor_id", "cpu family", "model", "model name", "stepping", "flags", "Features")
_LINES += tuple(f"CPU {x}" for x in ("implementer", "architecture", "variant", "part", "revision"))
# Vector instructions among the flags; the other flags change with the kernel.
_VECTORS = re.compile(r"(avx|s?sse|fma|f16c|amx|gfni|vaes|sve|sme|asimd|bf16|i8mm|fphp)\w*")


def facts() -> dict[str, str]:
    """Return the lines of /proc/cpuinfo that identify the processor; another text without Linux."""
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
    except OSError:
        return {"model name": platform.processor()}
    pairs = (line.partition(":") for line in lines)
    return {name.strip(): value.strip() for name, _, value in pairs if name.strip() in _LINES}


def kind() -> str:
    """Return the model, with a digest of its number and its vector instructions."""
    found = facts()
    words = sorted(set((found.get("flags") or found.get("Features") or "").split()))
    arm = [found[name] for name in _LINES if name.startswith("CPU ") and name in found]
    exact = [found.get("cpu family"), found.get("model"), *arm]
    exact += [word for word in words if _VECTORS.fullmatch(word)]
    name = found.get("model name") or platform.machine()
    return f"{name} ({hashlib.sha256(repr(exact).encode()).hexdigest()[:6]})"


def threads() -> int:
    """Return the number of threads over which XLA divides the work of a CPU.

    It is $PJRT_NPROC, else $NPROC, else the number of cores that this process may use.
    """
    for name in ("PJRT_NPROC", "NPROC"):
        text = os.environ.get(name, "")
        if re.fullmatch(r"[+-]?\d+", text.strip()):
            return max(0, int(text))
    linux = hasattr(os, "sched_getaffinity")
    return len(os.sched_getaffinity(0)) if linux else os.cpu_count()
