"""Analyses of a trained network as pictures and numbers: `python -m cv_jax look`.

Every analysis is a function `Subject → [Finding]`. One that does not apply to the network raises
`DoesNotApply` with the reason.
"""

from collections.abc import Callable

from cv_jax.inspect.look.attention import look_at_attention, look_at_rollout
from cv_jax.inspect.look.depth import look_at_layers, look_at_receptive_field
from cv_jax.inspect.look.errors import look_at_errors
from cv_jax.inspect.look.reconstruction import look_at_reconstruction
from cv_jax.inspect.look.representations import (
    look_at_cka,
    look_at_neighbours,
    look_at_projection,
)
from cv_jax.inspect.look.saliency import look_at_saliency
from cv_jax.inspect.look.subject import DoesNotApply, Finding, Subject
from cv_jax.inspect.look.weights import look_at_embedding, look_at_filters, look_at_positions

__all__ = ["ANALYSES", "DoesNotApply", "Finding", "Subject"]

# Name on the command line → analysis.
ANALYSES: dict[str, Callable[[Subject], list[Finding]]] = {
    "filters": look_at_filters,
    "embedding": look_at_embedding,
    "positions": look_at_positions,
    "attention": look_at_attention,
    "rollout": look_at_rollout,
    "reconstruction": look_at_reconstruction,
    "receptive-field": look_at_receptive_field,
    "layers": look_at_layers,
    "saliency": look_at_saliency,
    "cka": look_at_cka,
    "neighbours": look_at_neighbours,
    "projection": look_at_projection,
    "errors": look_at_errors,
}
