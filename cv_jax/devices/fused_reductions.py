"""A guard against reductions that jaxlib 0.10.2 and 0.11.0 compute wrongly on a CPU.

These versions fuse reductions with their neighbours into calls of YNNPACK. A fusion of arrays with
seven axes or more can end the process or give wrong numbers (jax-ml/jax 39257 and 40412: the sum of
a product). A fusion of a sum with a product of matrices that contracts three numbers gives wrong
last rows (39103: `jnp.sum((matrix @ row) ** 2)` under `jax.vmap` over 32,769 rows).

`guard` compiles programs with such operations without fused reductions; single products of matrices
still use YNNPACK. All other programs keep their bits, and so do all programs of other versions. Of
this package, the steps of Swin under `--sweep_executor=vmap` have seven axes.
"""

import math
import re
from typing import Any

import jaxlib
from jax._src import compiler

VERSIONS = ("0.10.2", "0.11.0")
OPTION = ("xla_cpu_experimental_ynn_fusion_type", "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT")
_SEVEN_AXES = re.compile(r"tensor<(?:\d+x){7}")
_PRODUCT = re.compile(
    r"dot_general .*contracting_dims = \[([\d, ]*)\] x .* : \(tensor<([\dx]*)x\w+>,"
)
_compile = compiler.compile_or_get_cached


def guard() -> None:
    """Compile programs at risk without fused reductions from now on, if jaxlib needs it."""
    if jaxlib.__version__ in VERSIONS:
        compiler.compile_or_get_cached = _compile_guarded


def at_risk(text: str) -> bool:
    """Whether a program has arrays with seven axes, or a product that contracts three numbers.

    Args:
      text: the program in StableHLO, such as `jax.jit(f).lower(…).as_text()`.
    """
    if _SEVEN_AXES.search(text):
        return True
    for contracted, shape in _PRODUCT.findall(text):
        sides = shape.split("x")
        if math.prod(int(sides[int(axis)]) for axis in contracted.split(",") if axis) == 3:
            return True
    return False


def _compile_guarded(
    backend: Any, module: Any, devices: Any, options: Any, *rest: Any, **more: Any
):
    if backend.platform == "cpu":
        text = module.operation.get_asm(large_elements_limit=8)  # without large constants
        if at_risk(text):
            # The persistent cache has the options in its keys.
            options.env_option_overrides = [*options.env_option_overrides, OPTION]
    return _compile(backend, module, devices, options, *rest, **more)
