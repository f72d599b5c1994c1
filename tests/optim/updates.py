"""A small tree of parameters, and the optimiser of a config that updates it."""

import types

import jax
import jax.numpy as jnp
import numpy as np

from cv_jax import config
from cv_jax.optim import optimisers, parameter_rules

SHAPES = {  # dense kernel, bias, fused kernel, convolution, positions, head
    "block/fc/kernel": (3, 5),
    "block/fc/bias": (5,),
    "block/attn/qkv/kernel": (4, 12),
    "block/conv/kernel": (2, 2, 3, 4),
    "pos_embed": (1, 3, 4),
    "head/kernel": (4, 3),
}
UPDATES, RATE, DECAY = 4, 0.1, 0.05


def tree(flat):
    out = {}
    for name, value in flat.items():
        *parents, leaf = name.split("/")
        node = out
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = jnp.asarray(value, jnp.float32)
    return out


def draws(seed, scale, shapes=SHAPES):
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=shape) * scale for name, shape in shapes.items()}


def rate(count):
    return RATE * (1 - count / 10)


def optimiser_of(params, texts=(), layer_decay=None, **fields):
    c = config.default(model="vit_ti16")
    c.optim.rules = texts
    for name, value in {"learning_rate": RATE, "weight_decay": DECAY, **fields}.items():
        c.optim[name] = value
    found = parameter_rules.treatments(c, types.SimpleNamespace(), params)
    return optimisers.make_optimiser(c, rate, found, total_steps=10)


def run(optimiser, params, gradients):
    """Return the flat parameters after the updates, and the state."""
    state, update = optimiser.init(params), jax.jit(optimiser.update)
    for gradient in gradients:
        trained, frozen = optimiser.split(params)
        updates, state = update(optimiser.split(gradient)[0], state, trained)
        params = optimiser.join(jax.tree.map(jnp.add, trained, updates), frozen)
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {jax.tree_util.keystr(p, simple=True, separator="/"): x for p, x in leaves}, state


def sizes(state):
    return sorted(x.size for x in jax.tree.leaves(state) if x.ndim)
