"""Optimisers and learning-rate schedules, put together from optax."""

import re
from collections.abc import Callable
from typing import Any

import flax
import jax
import ml_collections
import optax

from cv_jax.config import steps_of
from cv_jax.errors import InputError

SCHEDULES = ("constant", "cosine", "linear", "step")


def make_schedule(
    config: ml_collections.ConfigDict, total_steps: int, examples: int
) -> Callable[[Any], Any]:
    """Learning rate as a function of the number of updates made so far.

    Linear from 0 over the warm-up, then the schedule over the steps that remain.

    Args:
      config: the run's config; `config.schedule` and `config.optim.learning_rate` are read.
      total_steps: updates of the whole run.
      examples: size of the training split, for durations in epochs.

    Raises:
      InputError: an unknown schedule, or a value out of range.
    """
    c, peak = config.schedule, config.optim.learning_rate
    if c.name not in SCHEDULES:
        allowed = ", ".join(SCHEDULES)
        raise InputError(f"config.schedule.name: unknown schedule {c.name!r}; allowed: {allowed}")
    warmup = steps_of(config, "schedule.warmup", examples, total_steps) or 0
    if warmup > total_steps:
        raise InputError(
            f"config.schedule.warmup is {warmup} steps, the whole training only {total_steps}"
        )
    steps = max(1, total_steps - warmup)
    if c.name == "constant":
        main = optax.constant_schedule(peak)
    elif c.name == "cosine":
        main = optax.cosine_decay_schedule(peak, steps, alpha=c.end_factor)
    elif c.name == "linear":
        main = optax.linear_schedule(peak, peak * c.end_factor, steps)
    else:
        falls = {
            max(0, round(m / 100 * total_steps) - warmup): c.decay_factor for m in c.milestones
        }
        main = optax.piecewise_constant_schedule(peak, falls)
    if not warmup:
        return main
    return optax.join_schedules([optax.linear_schedule(0.0, peak, warmup), main], [warmup])


def matches(params: Any, patterns: tuple[str, ...]) -> Any:
    """A tree of booleans: whether one of the patterns matches the whole name, such as "head/bias".

    Raises:
      InputError: a pattern is no regular expression.
    """
    try:
        compiled = [re.compile(pattern) for pattern in patterns]
    except re.error as error:
        raise InputError(f"config.optim.no_decay: {error.pattern!r}: {error}") from None
    names = flax.traverse_util.flatten_dict(params, sep="/")
    found = {name: any(p.fullmatch(name) for p in compiled) for name in names}
    return flax.traverse_util.unflatten_dict(found, sep="/")


def _sgd(c):
    return optax.trace(c.momentum, c.nesterov) if c.momentum else optax.identity()


def _adam(c):
    return optax.scale_by_adam(c.b1, c.b2, c.eps)


# Name → direction of the update, and whether weight decay is decoupled from it.
OPTIMISERS: dict[str, tuple[Callable, bool]] = {
    "sgd": (_sgd, False),
    "adam": (_adam, False),
    "adamw": (_adam, True),
}


def make_optimiser(
    config: ml_collections.ConfigDict, schedule: Callable
) -> optax.GradientTransformation:
    """Clipping, direction, weight decay and learning rate, in the order that the name implies.

    Decoupled decay (Loshchilov and Hutter, 2019) is multiplied by the learning rate, as in PyTorch.

    Raises:
      InputError: an unknown optimiser, or a value out of range.
    """
    c = config.optim
    if c.name not in OPTIMISERS:
        allowed = ", ".join(OPTIMISERS)
        raise InputError(f"config.optim.name: unknown optimiser {c.name!r}; allowed: {allowed}")
    if c.clip_norm is not None and c.clip_norm <= 0:
        raise InputError(f"config.optim.clip_norm={c.clip_norm} must be positive, or none")
    matches({}, c.no_decay)
    direction, decoupled = OPTIMISERS[c.name]

    def decayed(params):
        return jax.tree.map(lambda excluded: not excluded, matches(params, c.no_decay))

    decay = optax.add_decayed_weights(c.weight_decay, decayed) if c.weight_decay else None
    chain = [
        optax.clip_by_global_norm(c.clip_norm) if c.clip_norm else None,
        None if decoupled else decay,
        direction(c),
        decay if decoupled else None,
        optax.scale_by_learning_rate(schedule),
    ]
    return optax.chain(*[part for part in chain if part is not None])
