"""The settings of JAX that decide which numbers a program computes.

`jax.config` reads them from environment variables, such as JAX_ENABLE_X64 for "jax_enable_x64"; a
config file or a library can change them too. Settings without a line here change logs, errors,
caches, connections or the choice of devices. The values are the defaults of JAX 0.10 to 0.12.
"""

import enum
import os
from typing import Any

import jax

# Types and random numbers are part of what cv_jax computes: `fix` sets these values.
FIXED: dict[str, Any] = {
    "jax_enable_x64": False,
    "jax_numpy_dtype_promotion": "standard",
    "jax_numpy_rank_promotion": "allow",
    "jax_explicit_x64_dtypes": "warn",
    "jax_random_seed_offset": 0,
    "jax_default_prng_impl": "threefry2x32",
    "jax_threefry_partitionable": True,
    "jax_enable_custom_prng": False,
    "jax_legacy_prng_key": "allow",
    "jax_high_dynamic_range_gumbel": False,
}

# Another value gives another rounding. A user may want it: the record of a run has it.
RECORDED: dict[str, Any] = {
    "jax_default_matmul_precision": None,
    "jax_allow_f16_reductions": True,
    "jax_softmax_custom_jvp": False,
    "jax_accurate_erf_inv": False,
    "jax_use_hlo_logistic_lowering": None,
    "jax_use_magma": "auto",
    "jax_bcoo_cusparse_lowering": False,
    "jax_threefry_gpu_kernel_lowering": False,
    # how programs are traced and compiled
    "jax_disable_jit": False,
    "jax_disable_most_optimizations": False,
    "jax_optimization_level": "UNKNOWN",
    "jax_exec_time_optimization_effort": 0.0,
    "jax_memory_fitting_effort": 0.0,
    "jax_memory_fitting_level": "O2",
    "jax_compiler_enable_remat_pass": True,
    "jax_enable_pgle": False,
    "jax_compilation_cache_expect_pgle": False,
    "jax_pgle_profiling_runs": 3,
    "jax_pgle_aggregation_percentile": 90,
    "jax_use_direct_linearize": True,
    "jax_use_shardy_partitioner": True,
    "jax_use_rgv3": True,
    "jax_custom_jvp3": False,
    "jax_custom_vjp3": False,
    "jax_remat3": False,
    "jax_remat_barrier_no_cotangents": False,
    "jax_scan3": False,
    "jax_refs_to_pins": False,
    "jax_auto_pcast": True,
    "jax_embedded_constants_max_bytes": 32,
    "jax_use_simplified_jaxpr_constants": False,
    "jax_remove_size_one_mesh_axis_from_type": False,
    "eager_constant_folding": False,
    "check_vma": False,
    # checks that are compiled into programs
    "jax_debug_nans": False,
    "jax_debug_infs": False,
    "jax_error_checking_behavior_nan": "ignore",
    "jax_error_checking_behavior_divide": "ignore",
    "jax_error_checking_behavior_oob": "ignore",
    # devices and their order
    "jax_default_device": None,
    "jax_platform_name": "",
    "jax_xla_backend": "",
    "jax_backend_target": "",
    "jax_mock_gpu_topology": "",
    "mock_num_gpu_processes": 0,
    "jax_pjrt_client_create_options": None,
    "jax_cpu_collectives_implementation": "gloo",
    "jax_sort_devices_by_process_index": True,
}


def fix() -> list[str]:
    """Set the values of `FIXED`; return "NAME=VALUE" for each other value in the environment."""
    other = [name for name in FIXED if name in jax.config.values and _value(name) != FIXED[name]]
    for name in other:
        jax.config.update(name, FIXED[name])
    given = [name.upper() for name in other if name.upper() in os.environ]
    return [f"{name}={os.environ[name]}" for name in given]


def changed() -> dict[str, Any]:
    """Return name → JSON-serialisable value for the settings that differ from the tables above."""
    return {
        name: _value(name)
        for name, value in {**FIXED, **RECORDED}.items()
        if name in jax.config.values and _value(name) != value
    }


def _value(name: str) -> Any:
    value = jax.config.values[name]
    if isinstance(value, enum.Enum):
        return value.name.lower()
    return value if isinstance(value, (bool, int, float, str, type(None))) else str(value)
