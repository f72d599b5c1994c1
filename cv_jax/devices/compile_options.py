"""Options of the compiler for programs that run once."""

import contextlib
from collections.abc import Iterator

import jax


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
