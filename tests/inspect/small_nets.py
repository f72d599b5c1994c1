"""Fields of small networks, and random weights, for the tests of analyses."""

import jax
import numpy as np
from flax import traverse_util

SMALL_VIT = dict(image_size=(16, 24), patch_size=8, width=12, depth=2, num_heads=2, num_classes=5)
SMALL_SWIN = dict(
    width=8, depths=(2, 2), num_heads=(2, 4), window_size=2, patch_size=4, num_classes=5
)
SMALL_RESNET = dict(stage_sizes=(1, 1), widths=(4, 8), stem_width=4, num_classes=5)


def with_weights(model, *inputs, seed=0, scale=1.0):
    """Return random variables of a model; no array is constant."""
    rngs = {name: jax.random.key(0) for name in ("params", "dropout", "mask")}
    shapes = jax.eval_shape(lambda: model.init(rngs, *inputs))
    rng = np.random.default_rng(seed)
    flat = {}
    for path, leaf in traverse_util.flatten_dict(shapes).items():
        noise = rng.standard_normal(leaf.shape).astype(np.float32)
        if path[-1] == "scale" or path[-1] == "var":
            flat[path] = 1 + 0.1 * np.abs(noise)
        elif leaf.ndim > 1:
            flat[path] = scale * noise / np.sqrt(np.prod(leaf.shape[:-1]))
        else:
            flat[path] = 0.1 * noise
    return traverse_util.unflatten_dict({k: np.float32(x) for k, x in flat.items()})
