"""The optimiser of configs/cifar_speedrun.py against that of airbench94_muon.py, update by update.

The reference sums the loss over 2000 images. Its two optimisers are written again in float64 NumPy,
from `main` and `Muon` of airbench94_muon.py and the documentation of torch.optim.SGD.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from cv_jax import config as configs
from cv_jax import models
from cv_jax.optim import optimisers, parameter_rules, schedules

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "cifar_speedrun.py"
TOTAL, WHITENING, UPDATES = 200, 75, 80  # steps; some updates beyond the end of the bias


def newton_schulz(x):
    shape = x.shape
    x = x.reshape(len(x), -1)
    x = x / (np.linalg.norm(x) + 1e-7)
    tall = len(x) > x.shape[1]
    x = x.T if tall else x
    for _ in range(3):
        a = x @ x.T
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return (x.T if tall else x).reshape(shape)


def reference(values, gradients):
    """Return the parameters after the updates; `gradients` are of the summed loss."""
    wd, buffers = 2e-6 * 2000, {}
    for step, grads in enumerate(gradients):
        for name, g in grads.items():
            w = values[name]
            if name == "whiten/kernel" or (name == "whiten/bias" and step >= WHITENING):
                continue
            share = 1 - step / (WHITENING if name == "whiten/bias" else TOTAL)
            if w.ndim == 4:
                g, w = g.transpose(3, 2, 0, 1), w.transpose(3, 2, 0, 1)  # [out, in, h, w]
                buffers[name] = 0.6 * buffers.get(name, 0) + g
                w = w * len(w) ** 0.5 / np.linalg.norm(w)
                w = w - 0.24 * share * newton_schulz(g + 0.6 * buffers[name])
                values[name] = w.transpose(2, 3, 1, 0)
                continue
            lr = 0.67 if name == "head/kernel" else 0.053
            g = g + wd / lr * w
            buffers[name] = 0.85 * buffers.get(name, 0) + g
            values[name] = w - lr * share * (g + 0.85 * buffers[name])
    return values


def test_eighty_updates():
    c = configs.load(f"{CONFIG}:cifar10", {"model.widths": "3,4"})
    model = models.create("airbench94", widths=(3, 4))
    params = model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))["params"]
    schedule = schedules.make_schedule(c, TOTAL, 50_000)
    found = parameter_rules.treatments(c, model, params)
    optimiser = optimisers.make_optimiser(c, schedule, found, TOTAL)
    flat = flatten_dict(jax.device_get(params), sep="/")
    rng = np.random.default_rng(0)
    gradients = [
        {name: rng.standard_normal(x.shape) * 0.5 for name, x in flat.items()}
        for _ in range(UPDATES)
    ]

    @jax.jit
    def update(params, state, gradient):
        trained, frozen = optimiser.split(params)
        gradient = optimiser.split(jax.tree.map(lambda g: g / 2000, gradient))[0]
        updates, state = optimiser.update(gradient, state, trained)
        return optimiser.join(jax.tree.map(jnp.add, trained, updates), frozen), state

    state = optimiser.init(params)
    for gradient in gradients:
        gradient = {name: np.float32(g) for name, g in gradient.items()}
        params, state = update(params, state, unflatten_dict(gradient, sep="/"))
    got = flatten_dict(jax.device_get(params), sep="/")
    expected = reference({name: np.float64(x) for name, x in flat.items()}, gradients)
    for name, value in expected.items():
        np.testing.assert_allclose(got[name], value, rtol=1e-3, atol=1e-3, err_msg=name)
        moved = np.abs(got[name] - flat[name]).max()
        assert (moved == 0) == (name == "whiten/kernel"), name
