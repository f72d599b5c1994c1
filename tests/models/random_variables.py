"""Variables drawn by NumPy: nothing is compiled, and no zero or one of a start hides a mistake."""

import jax
import numpy as np


def random_variables(model, *inputs, scale: float = 0.3, seed: int = 0, **kwargs):
    """Normal values of deviation `scale` (around 1 for scales of norms) for all of a model's
    variables, given its inputs."""
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), *inputs, **kwargs))
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        center = 1.0 if getattr(path[-1], "key", "") == "scale" else 0.0
        return (center + scale * rng.standard_normal(leaf.shape)).astype(leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, shapes)
