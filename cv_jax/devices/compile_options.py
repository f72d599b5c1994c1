"""Options of the compiler for programs that run once."""

import jax


def once() -> dict[str, int] | None:
    """Return `compiler_options` of `jax.jit` for a program that runs once, such as initialisation.

    On a CPU, LLVM spends most of the time of such a program on optimisations. Its first level
    computes the same bits; `docs/performance.md` has the seconds.
    """
    return {"xla_backend_optimization_level": 1} if jax.default_backend() == "cpu" else None
