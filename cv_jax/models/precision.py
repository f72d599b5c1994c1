"""Precision of parameters: float32 master weights of a model with bfloat16 parameters.

`model.dtype` is the precision of the computation, `model.param_dtype` that of the parameters that
the model reads. A bfloat16 number has eight significant bits: an update below about 1/500 of a
parameter rounds to nothing, and so does every step of an average with a decay of 0.999. Therefore
the train state holds float32 parameters, averages, moments and statistics, and the model reads the
parameters rounded to `model.param_dtype`, in training and in evaluation (Micikevicius et al., 2018,
arXiv:1710.03740, section 3.1).
"""

from typing import Any

import flax.linen as nn
import jax

from cv_jax.models.layers import at_least_float32


def stored(model: nn.Module, master_weights: bool) -> nn.Module:
    """Return the model with the parameters of the train state.

    With `master_weights` they are float32, and so are their initial values. Otherwise they have the
    dtype `model.param_dtype`.
    """
    return model.clone(param_dtype="float32") if master_weights and _is_half(model) else model


def as_read(model: nn.Module, variables: dict[str, Any]) -> dict[str, Any]:
    """Return the variables as the model reads them: its parameters rounded to `param_dtype`."""
    if not _is_half(model):
        return variables
    params = jax.tree.map(lambda x: rounded(x, "bfloat16"), variables["params"])
    return {**variables, "params": params}


def rounded(x: jax.Array, dtype: Any) -> jax.Array:
    """Cast to a dtype. XLA leaves out a cast to bfloat16 that is followed by a cast to float32."""
    return _to_bfloat16(x).astype(dtype) if dtype == "bfloat16" else x.astype(dtype)


def widened(x: jax.Array) -> jax.Array:
    """Cast to at least float32, exactly: see `rounded`."""
    wide = at_least_float32(x)
    return _to_bfloat16(wide) if x.dtype == "bfloat16" else wide


def _to_bfloat16(x: jax.Array) -> jax.Array:
    return jax.lax.reduce_precision(x, exponent_bits=8, mantissa_bits=7)


def _is_half(model: nn.Module) -> bool:
    return getattr(model, "param_dtype", "float32") == "bfloat16"
