"""`jax.jit` for code that runs once: fast compilation without optimisations."""

import functools

import jax

quick_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
