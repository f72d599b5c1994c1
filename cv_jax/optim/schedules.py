"""Learning-rate schedules: warm-up, schedule, cool-down."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import ml_collections
import optax

from cv_jax.config import steps_of
from cv_jax.errors import InputError


def peak_rate(config: ml_collections.ConfigDict) -> float:
    """Return the highest learning rate.

    With `optim.base_batch_size` it is `optim.learning_rate` times batch size over base batch size,
    the linear rule of Goyal et al. (2017, arXiv:1706.02677, section 2.1).
    """
    base = config.optim.base_batch_size
    return config.optim.learning_rate * (config.batch_size / base if base else 1)


# `(config, peak, span) → schedule`; a schedule is a function of the steps after the warm-up.


def _constant(config, peak, span):
    return optax.constant_schedule(peak)


def _cosine(config, peak, span):
    return optax.cosine_decay_schedule(peak, span.steps, alpha=config.schedule.end_factor)


def _linear(config, peak, span):
    return optax.linear_schedule(peak, peak * config.schedule.end_factor, span.steps)


def _polynomial(config, peak, span):
    c = config.schedule
    return optax.polynomial_schedule(peak, peak * c.end_factor, c.power, span.steps)


def _step(config, peak, span):
    if not span.every:
        raise InputError("config.schedule.every_steps (or _epochs, …) must be set for step")
    factor = config.schedule.decay_factor
    return lambda step: peak * factor ** ((step + span.warmup) // span.every)


def _multistep(config, peak, span):
    factor = config.schedule.decay_factor
    falls = jnp.array([round(m / 100 * span.total) for m in config.schedule.milestones])
    return lambda step: peak * factor ** (step + span.warmup >= falls).sum()


def _rsqrt(config, peak, span):
    timescale = span.timescale or span.warmup
    if not timescale:
        raise InputError("config.schedule.timescale_steps or a warm-up must be set for rsqrt")
    return lambda step: peak / jnp.sqrt(1 + step / timescale)


def _wsd(config, peak, span):
    if not span.cooldown:
        raise InputError("config.schedule.cooldown_percent (or _steps, …) must be set for wsd")
    return optax.constant_schedule(peak)


def _one_cycle(config, peak, span):
    if not span.warmup:
        raise InputError("config.schedule.warmup_percent (or _steps, …) must be set for one_cycle")
    return _cosine(config, peak, span)


SCHEDULES = {
    "constant": _constant,
    "step": _step,
    "multistep": _multistep,
    "cosine": _cosine,
    "linear": _linear,
    "polynomial": _polynomial,
    "rsqrt": _rsqrt,
    "wsd": _wsd,
    "one_cycle": _one_cycle,
}


class _Span:
    """Durations of the config in steps; `steps` is the number between warm-up and cool-down."""

    def __init__(self, config, total_steps, examples):
        self.total = total_steps
        for name in ("warmup", "cooldown", "every", "timescale"):
            steps = steps_of(config, f"schedule.{name}", examples, total_steps) or 0
            setattr(self, name, steps)
        if self.warmup + self.cooldown > total_steps:
            both = f"config.schedule.warmup is {self.warmup} steps"
            if self.cooldown:
                both += f", config.schedule.cooldown {self.cooldown}"
            raise InputError(f"{both}, the whole training only {total_steps}")
        self.steps = max(1, total_steps - self.warmup - self.cooldown)


def make_schedule(
    config: ml_collections.ConfigDict, total_steps: int, examples: int
) -> Callable[[Any], Any]:
    """Return the learning rate as a function of the number of updates.

    In the warm-up the rate rises linearly from `warmup_factor` times the peak. Between warm-up and
    cool-down it follows the named schedule. In the cool-down it falls linearly to `end_factor`
    times the peak. With `p` from 0 to 1 between warm-up and cool-down, the schedules are:

    - `constant`;
    - `step`: times `decay_factor` after each duration `every`;
    - `multistep`: times `decay_factor` at each of `milestones`, in percent of the training;
    - `cosine`, to `end_factor` (Loshchilov and Hutter, 2017, arXiv:1608.03983, without restarts);
    - `linear`, to `end_factor`; `polynomial`, end + (1 − end)·(1 − p)^`power`;
    - `rsqrt`: 1/√(1 + steps/`timescale`). With the warm-up as timescale this is the schedule of
      Vaswani et al. (2017, section 5.3) after its warm-up; with a cool-down, that of Zhai et al.
      (2022, arXiv:2106.04560, section 3.5);
    - `wsd`: constant, with a cool-down of the form 1 − √(share of the cool-down) (Hägele et al.,
      2024, arXiv:2405.18392, section 4). `constant` has the linear cool-down;
    - `one_cycle`: cosine, with a warm-up along a cosine (Smith and Topin, 2018, arXiv:1708.07120,
      as in PyTorch's OneCycleLR, but with constant momentum).

    Args:
      config: the run's config; reads `schedule`, `batch_size` and the learning rate in `optim`.
      total_steps: updates of the whole run.
      examples: size of the training split, for durations in epochs.

    Raises:
      InputError: a duration that the schedule needs is not set, or warm-up plus cool-down is longer
        than the training.
    """
    c = config.schedule
    span, peak = _Span(config, total_steps, examples), peak_rate(config)

    schedule = SCHEDULES[c.name](config, peak, span)
    if span.cooldown:
        stable, start = schedule, span.total - span.warmup - span.cooldown

        def schedule(step):
            before, after = stable(jnp.minimum(step, start)), peak * c.end_factor
            share = jnp.clip((step - start) / span.cooldown, 0, 1)
            share = jnp.sqrt(share) if c.name == "wsd" else share
            return before + (after - before) * share

    if not span.warmup:
        return schedule
    if c.name == "one_cycle":
        half = optax.cosine_decay_schedule(peak * (1 - c.warmup_factor), span.warmup)

        def rise(step):
            return peak - half(step)
    else:
        rise = optax.linear_schedule(peak * c.warmup_factor, peak, span.warmup)
    return optax.join_schedules([rise, schedule], [span.warmup])
