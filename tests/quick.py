"""`jax.jit` for code that runs once: fast compilation without optimisations."""

import functools

import jax
import jaxlib

OPTIONS = {"xla_backend_optimization_level": 0}
if jaxlib.version.__version_info__ < (0, 12):  # later versions do not have the option
    OPTIONS["xla_cpu_use_fusion_emitters"] = False

quick_jit = functools.partial(jax.jit, compiler_options=OPTIONS)
