"""Options of the compiler: for the steps of a run on a CPU, and for programs that run once."""

import contextlib
import os
import platform
import re
from collections.abc import Iterator

import jax
import jaxlib

from cv_jax.devices import processor

_FUSIONS = "xla_cpu_experimental_ynn_fusion_type"
# Version of jaxlib → options that make training steps of convolutional networks faster on an idle
# x86-64 CPU with two threads; `python -m benchmarks.levers` measures them. By default 0.10.2
# computes single convolutions by YNNPACK. This list leaves them out (LIBRARY_FUSION_TYPE_
# INDIVIDUAL_CONVOLUTION), so that Eigen computes them. In processor time, and with one thread,
# Eigen is no faster.
MEASURED = {
    "0.10.2": {_FUSIONS: "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT,LIBRARY_FUSION_TYPE_REDUCE"},
}


def for_steps() -> dict[str, str]:
    """Return the options of a new run for its steps: the fastest that were measured.

    There are none on an accelerator, with one thread, and for a version of jaxlib that was not
    measured.
    """
    if jax.default_backend() != "cpu" or platform.machine() not in ("x86_64", "AMD64"):
        return {}
    if processor.threads() < 2:
        return {}
    return without_flags(MEASURED.get(jaxlib.__version__, {}))


def without_flags(options: dict[str, str]) -> dict[str, str]:
    """Return the options without those that `XLA_FLAGS` sets, which come from the user."""
    given = re.findall(r"--(\w+)", os.environ.get("XLA_FLAGS", ""))
    return {name: value for name, value in options.items() if name not in given}


def once() -> dict[str, int] | None:
    """Return `compiler_options` of `jax.jit` for a program that runs once, such as initialisation.

    On a CPU, LLVM spends most of the time of such a program on optimisations. Its first level
    computes the same bits; `docs/performance.md` has the seconds.
    """
    return {"xla_backend_optimization_level": 1} if jax.default_backend() == "cpu" else None


@contextlib.contextmanager
def hasty() -> Iterator[None]:
    """Compile the programs of the block in the shortest time, on a CPU; `once` goes first.

    For programs that run a few times on a few images: they run slower. Not for two threads at once.
    """
    name = "jax_disable_most_optimizations"
    before = jax.config.read(name)
    jax.config.update(name, before or jax.default_backend() == "cpu")
    try:
        yield
    finally:
        jax.config.update(name, before)
