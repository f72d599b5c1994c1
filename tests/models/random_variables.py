"""Random variables without compilation, and without initial zeros and ones that hide errors."""

import jax
import numpy as np


def random_variables(model, *inputs, scale: float = 0.3, seed: int = 0, **kwargs):
    """Return normal variables of deviation `scale`; the mean is 1 for scales of norms, else 0."""
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), *inputs, **kwargs))
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        center = 1.0 if getattr(path[-1], "key", "") == "scale" else 0.0
        return (center + scale * rng.standard_normal(leaf.shape)).astype(leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, shapes)
