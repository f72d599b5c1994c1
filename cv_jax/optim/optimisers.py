"""Optimisers, built from optax.

Every optimiser is one chain: gradient clipping, update direction, weight decay, the factors of
rules and layer decay for single parameters, learning rate. Frozen parameters are not part of it.
The chain computes in float32 for parameters of any dtype, and its moments are float32 (first
moments: `optim.moment_dtype`).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax

from cv_jax.errors import InputError
from cv_jax.models.layers import at_least_float32
from cv_jax.optim import muon
from cv_jax.optim.parameter_rules import Treatment, join, split

MIN_FACTORED = 32  # shortest axis that Adafactor factors
# Optimiser → decays of its moments in `moment_dtype`; b1 for all others.
MOMENT_DECAYS = {
    "sgd": ("momentum",),
    "lars": ("momentum",),
    "muon": ("momentum", "b1"),
    "lion": ("b2",),
}
# A bfloat16 number times a larger decay rounds to itself: half a unit in the last place is up to
# 2⁻⁸ of the number.
SLOWEST = 1 - 2**-8


class Optimiser(NamedTuple):
    """Functions of an optimiser for the training step.

    Attributes:
      init: `params → state`.
      update: `(gradients, state, trained) → (updates, state)`; gradients of trained parameters,
        updates at least float32.
      split: `params → (trained, frozen)`; see `parameter_rules.split`.
      join: `(trained, frozen) → params`.
    """

    init: Callable[[Any], Any]
    update: Callable[[Any, Any, Any], tuple[Any, Any]]
    split: Callable[[Any], tuple[Any, Any]]
    join: Callable[[Any, Any], Any]


class Parts(NamedTuple):
    """Inputs of the functions in `OPTIMISERS`.

    Attributes:
      settings: `config.optim`.
      decay: transformation that adds weight decay.
      treatments: treatment of every parameter, by name.
    """

    settings: ml_collections.ConfigDict
    decay: optax.GradientTransformation
    treatments: dict[str, Treatment]


def _sgd(p):
    return [p.decay, _momentum(p.settings)]


def _adam(p, nesterov=False):
    return [p.decay, _scale_by_adam(p.settings, nesterov)]


def _adamw(p, nesterov=False):
    return [_scale_by_adam(p.settings, nesterov), p.decay]


def _lamb(p):
    return [_scale_by_adam(p.settings), p.decay, _trust_ratio(p, 1.0)]


def _lars(p):
    return [p.decay, _trust_ratio(p, p.settings.trust_coefficient), _momentum(p.settings)]


def _lion(p):
    c = p.settings
    return [optax.scale_by_lion(c.b1, c.b2, mu_dtype=c.moment_dtype), p.decay]


def _adafactor(p):
    c = p.settings

    def decay_rate(step, exponent):
        return jnp.minimum(c.b2, 1 - (step + 1.0) ** -exponent)

    parts = [
        optax.scale_by_factored_rms(
            min_dim_size_to_factor=MIN_FACTORED, decay_rate_fn=decay_rate, decay_rate=0.8
        ),
        by_layer(lambda name: optax.clip_by_block_rms(1.0), p.treatments),
    ]
    if c.parameter_scale:
        parts.append(by_layer(lambda name: optax.scale_by_param_block_rms(1e-3), p.treatments))
    if c.b1:
        parts.append(optax.ema(c.b1, debias=False, accumulator_dtype=c.moment_dtype))
    return [*parts, p.decay]


def _muon(p):
    c = p.settings
    others = "sgd" if c.others == "sgd" else "adam"
    directions = {
        "muon": muon.scale_by_muon(c, p.treatments),
        others: _trace(c, c.others_momentum) if others == "sgd" else _scale_by_adam(c),
    }
    labels = tree_of(lambda name, t: "muon" if t.matrices else others, p.treatments)
    direction = optax.partition(directions, labels)
    if others == "adam":
        return [direction, p.decay]
    before = add_decay(c, p.treatments, lambda t: not t.matrices)  # part of the gradient
    return [before, direction, add_decay(c, p.treatments, lambda t: t.matrices > 0)]


# Name → transformations between gradient clipping and learning rate. Weight decay before the
# direction is part of the gradient (an L2 penalty). Weight decay after the direction is decoupled
# (Loshchilov and Hutter, 2019, arXiv:1711.05101) and multiplied by the learning rate, as in
# PyTorch.
#
# sgd: with momentum m the sum v ← m·v + g, without dampening; with `nesterov` the direction is
#   g + m·v.
# adam, adamw: Kingma and Ba, 2015, arXiv:1412.6980.
# nadam, nadamw: Dozat, 2016, with a constant momentum and the bias corrections of its algorithm 8.
# lamb: You et al., 2020, arXiv:1904.00962, algorithm 2. lars: You et al., 2017, arXiv:1708.03888,
#   with the norm of the sum of gradient and decay, and the learning rate outside the momentum, as
#   in MAE's code. In both, parameters without weight decay have no trust ratio, as in the authors'
#   code.
# lion: Chen et al., 2023, arXiv:2302.06675.
# adafactor: Shazeer and Stern, 2018, arXiv:1804.04235, algorithms 4 and 5 (`b1=0`: no first
#   moment). With `b1=0.9`, `moment_dtype=bfloat16` and `parameter_scale=false` it is the version of
#   Zhai et al., 2022, arXiv:2106.04560, section 3.4, where `b2` bounds the decay of the second
#   moment.
# muon: see muon.py; the other parameters are updated as by adamw or sgd.
OPTIMISERS: dict[str, Callable[[Parts], list[optax.GradientTransformation]]] = {
    "sgd": _sgd,
    "adam": _adam,
    "adamw": _adamw,
    "nadam": lambda p: _adam(p, nesterov=True),
    "nadamw": lambda p: _adamw(p, nesterov=True),
    "lamb": _lamb,
    "lars": _lars,
    "lion": _lion,
    "adafactor": _adafactor,
    "muon": _muon,
}


def make_optimiser(
    config: ml_collections.ConfigDict,
    schedule: Callable,
    treatments: dict[str, Treatment],
    total_steps: int,
) -> Optimiser:
    """Return the optimiser of a config.

    Args:
      config: the run's config; reads `optim`.
      schedule: learning rate as a function of the number of updates.
      treatments: treatment of every parameter; see `parameter_rules.treatments`.
      total_steps: updates of the whole run, for rules with `until`.

    Raises:
      InputError: see `check`.
    """
    c = config.optim
    check(c)

    rates = tree_of(lambda name, t: t.lr, treatments)
    parts = Parts(c, add_decay(c, treatments), treatments)
    chain = optax.chain(
        *_clipping(parts),
        *OPTIMISERS[c.name](parts),
        _stateless(lambda u, p, f: f * u, rates),
        _learning_rate(schedule, treatments, total_steps),
        *([muon.keep_norms(treatments)] if c.name == "muon" and c.muon_keep_norms else []),
    )

    def divide(params):
        return split(params, treatments)

    def init(params):
        return chain.init(_wide(divide(params)[0]))

    def update(gradients, state, trained):
        return chain.update(_wide(gradients), state, _wide(trained))

    return Optimiser(init, update, divide, join)


def check(c: ml_collections.ConfigDict) -> None:
    """Check the fields of `config.optim` that depend on each other.

    Raises:
      InputError: two kinds of gradient clipping are set, or bfloat16 moments would never fall.
    """
    clips = [name for name in ("clip_norm", "clip_value", "clip_adaptive") if c[name] is not None]
    if len(clips) > 1:
        raise InputError(f"config.optim.{clips[0]} and .{clips[1]} are both set; keep one")
    decays = MOMENT_DECAYS.get(c.name, ("b1",))
    if c.name == "muon" and c.others == "sgd":
        decays = "momentum", "others_momentum"
    for name in decays:
        if c.moment_dtype == "bfloat16" and c[name] > SLOWEST:
            raise InputError(
                f"config.optim.moment_dtype=bfloat16: a moment with {name}={c[name]} never falls, "
                f"because bfloat16 rounds its small changes away; set config.optim.{name} to at "
                f"most {SLOWEST}, or moment_dtype=float32"
            )


def _wide(tree: Any) -> Any:
    return jax.tree.map(at_least_float32, tree)


def tree_of(value: Callable[[str, Treatment], Any], treatments: dict[str, Treatment]) -> Any:
    """Return the tree of trained parameters with `value(name, treatment)` as leaves."""
    flat = {name: None if t.frozen else value(name, t) for name, t in treatments.items()}
    return flax.traverse_util.unflatten_dict(flat, sep="/")


def by_layer(
    transformation: Callable[[str], optax.GradientTransformation],
    treatments: dict[str, Treatment],
) -> optax.GradientTransformation:
    """Apply a stateless transformation to each parameter, and to each layer of scanned parameters.

    Args:
      transformation: name of a parameter → its transformation.
      treatments: treatment of every parameter.
    """

    def update(updates, params):
        def one(path, u, p):
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            inner = transformation(name)

            def single(u, p):
                return inner.update(u, inner.init(p), p)[0]

            return (jax.vmap(single) if treatments[name].stacked else single)(u, p)

        return jax.tree_util.tree_map_with_path(one, updates, params)

    return optax.stateless(update)


def add_decay(
    c: ml_collections.ConfigDict,
    treatments: dict[str, Treatment],
    chosen: Callable[[Treatment], bool] = lambda treatment: True,
) -> optax.GradientTransformation:
    """Add the weight decay of `config.optim` to the updates of the chosen parameters."""
    if not c.weight_decay:
        return optax.identity()
    factors = tree_of(lambda name, t: c.weight_decay * t.decay * chosen(t), treatments)
    return _stateless(lambda u, p, f: u + f * p, factors)


def _learning_rate(schedule, treatments, total_steps):
    """Multiply by the negative learning rate; the step is that of the parameter's own schedule."""
    untils = tree_of(lambda name, t: t.until, treatments)
    if set(jax.tree.leaves(untils)) == {100.0}:
        return optax.scale_by_learning_rate(schedule)

    def update(updates, state, params=None):
        def one(u, until):
            step = state.count if until == 100 else state.count * (100 / until)
            return -jnp.where(step < total_steps, schedule(step), 0).astype(u.dtype) * u

        count = optax.safe_increment(state.count)
        return jax.tree.map(one, updates, untils), optax.ScaleByScheduleState(count)

    init = optax.scale_by_schedule(schedule).init
    return optax.GradientTransformation(init, update)


def _stateless(function, factors):
    """Apply `function(update, parameter, factor)` to each parameter."""
    return optax.stateless(lambda updates, params: jax.tree.map(function, updates, params, factors))


def _momentum(c):
    return _trace(c, c.momentum)


def _trace(c, momentum):
    if not momentum:
        return optax.identity()
    return optax.trace(momentum, c.nesterov, accumulator_dtype=c.moment_dtype)


def _scale_by_adam(c, nesterov=False):
    return optax.scale_by_adam(c.b1, c.b2, c.eps, mu_dtype=c.moment_dtype, nesterov=nesterov)


def _trust_ratio(p, coefficient):
    def ratio(name):
        adapted = np.max(p.treatments[name].decay) > 0
        return optax.scale_by_trust_ratio(0.0, coefficient) if adapted else optax.identity()

    return by_layer(ratio, p.treatments)


def _clipping(p):
    """Clip gradients by value, by global norm, or adaptively.

    Adaptive clipping (Brock et al., 2021, arXiv:2102.06171, section 4.1) limits the norm of each
    unit relative to the norm of its weights. A unit is the column of one output of a kernel, or a
    whole vector. The last layers are not clipped, as in the paper.
    """
    c = p.settings
    if c.clip_norm is not None:
        return [optax.clip_by_global_norm(c.clip_norm)]
    if c.clip_value is not None:
        return [optax.clip(c.clip_value)]
    if c.clip_adaptive is None:
        return []

    def adaptive(name):
        if p.treatments[name].last:
            return optax.identity()

        def clip(u, params):
            axes = tuple(range(u.ndim - 1 if name.endswith("kernel") else u.ndim))
            return optax.adaptive_grad_clip(c.clip_adaptive, axis=axes).update(u, None, params)[0]

        return optax.stateless(clip)

    return [by_layer(adaptive, p.treatments)]
