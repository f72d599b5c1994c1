"""`jax.jit` for code that runs once: without the compiler's optimisations it starts far sooner."""

import functools

import jax

quick_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
