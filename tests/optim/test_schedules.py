"""Schedules, against NumPy code from their papers."""

import numpy as np
import pytest

from cv_jax import config
from cv_jax.errors import InputError
from cv_jax.optim.schedules import make_schedule

PEAK = 0.5


def rates(total, optim=None, **schedule):
    """Return the rate of every step; an epoch has ten steps."""
    c = config.default(model="mlp")
    c.optim.learning_rate = PEAK
    for name, value in (optim or {}).items():
        c.optim[name] = value
    for name, value in schedule.items():
        c.schedule[name] = value
    found = make_schedule(c, total, 10 * c.batch_size)
    return np.array([found(step) for step in range(total)])


# For steps t after the warm-up, of T between warm-up and cool-down; relative to the peak.
CASES = {
    "constant": ({}, lambda t, T: np.ones_like(t)),
    "cosine": (
        {"end_factor": 0.1},
        lambda t, T: 0.1 + 0.9 * 0.5 * (1 + np.cos(np.pi * np.minimum(t / T, 1))),
    ),
    "linear": ({"end_factor": 0.2}, lambda t, T: 1 - 0.8 * np.minimum(t / T, 1)),
    "polynomial": (
        {"end_factor": 0.1, "power": 3.0},
        lambda t, T: 0.1 + 0.9 * (1 - np.minimum(t / T, 1)) ** 3,
    ),
    "rsqrt": ({"timescale_epochs": 2.0}, lambda t, T: 1 / np.sqrt(1 + t / 20)),
}
SHAPES = [(0, 0), (10, 0), (0, 20), (10, 20)]


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(("warmup", "cooldown"), SHAPES)
def test_each_with_warmup_and_cooldown(name, warmup, cooldown):
    fields, law = CASES[name]
    got = rates(100, name=name, warmup_steps=warmup, cooldown_steps=cooldown, **fields)
    steps, span = np.arange(100.0), 100 - warmup - cooldown
    expected = law(np.maximum(steps - warmup, 0), span)
    expected = np.where(steps < warmup, steps / max(warmup, 1), expected)
    if cooldown:
        before, end = law(np.float64(span), span), fields.get("end_factor", 0.0)
        share = (steps - (100 - cooldown)) / cooldown
        expected = np.where(share >= 0, before + (end - before) * share, expected)
    np.testing.assert_allclose(got, PEAK * expected, rtol=2e-5, atol=1e-7)


def test_milestones_are_percents_of_the_whole():
    got = rates(100, name="multistep", milestones=(5.0, 50.0, 75.0, 75.0), warmup_steps=10)
    step = np.arange(100)
    expected = np.select([step < 10, step < 50, step < 75], [step / 10, 0.1, 0.01], 0.0001)
    # The first milestone is in the warm-up, so the rate after it has already fallen once.
    np.testing.assert_allclose(got, PEAK * expected, rtol=1e-5)


def test_step_decays_after_every_duration():
    got = rates(60, name="step", every_epochs=2.0, decay_factor=0.5, warmup_steps=5)
    step = np.arange(60)
    expected = np.where(step < 5, step / 5, 0.5 ** (step // 20))
    np.testing.assert_allclose(got, PEAK * expected, rtol=1e-5)


def test_the_transformers_schedule_is_rsqrt_from_the_warmup():
    # Vaswani et al., equation 3, for step numbers from 1: min(s^-0.5, s · w^-1.5).
    got = rates(200, name="rsqrt", warmup_steps=40)
    s = np.arange(200.0)
    law = np.minimum(np.maximum(s, 1) ** -0.5, s * 40**-1.5)
    np.testing.assert_allclose(got, PEAK * law / 40**-0.5, rtol=1e-5, atol=1e-7)


def test_wsd_falls_by_one_minus_the_root():
    got = rates(100, name="wsd", warmup_steps=10, cooldown_percent=20.0)
    step = np.arange(100)
    fall = 1 - np.sqrt(np.maximum(step - 80, 0) / 20)
    expected = np.select([step < 10, step < 80], [step / 10, 1.0], fall)
    np.testing.assert_allclose(got, PEAK * expected, rtol=1e-5, atol=1e-7)


def test_one_cycle_rises_and_falls_along_cosines():
    got = rates(100, name="one_cycle", warmup_percent=30.0, warmup_factor=0.04, end_factor=4e-6)
    step = np.arange(100)

    def cosine(start, end, share):  # annealing of PyTorch's OneCycleLR
        return end + (start - end) / 2 * (1 + np.cos(np.pi * share))

    expected = np.where(step < 30, cosine(0.04, 1, step / 30), cosine(1, 4e-6, (step - 30) / 70))
    np.testing.assert_allclose(got, PEAK * expected, rtol=1e-4)


def test_warmup_factor():
    got = rates(20, name="constant", warmup_steps=10, warmup_factor=0.2)
    expected = 0.2 + 0.8 * np.minimum(np.arange(20) / 10, 1)
    np.testing.assert_allclose(got, PEAK * expected, rtol=1e-5)


def test_the_rate_grows_with_the_batch():
    got = rates(5, {"base_batch_size": 512}, name="constant")
    np.testing.assert_allclose(got, PEAK * 128 / 512)


@pytest.mark.parametrize(
    ("schedule", "said"),
    [
        ({"warmup_steps": 11}, "warmup is 11 steps, the whole training only 10"),
        ({"warmup_steps": 6, "cooldown_steps": 5}, "cooldown 5, the whole training only 10"),
        ({"name": "wsd"}, "cooldown_percent .* must be set for wsd"),
        ({"name": "one_cycle"}, "warmup_percent .* must be set for one_cycle"),
        ({"name": "rsqrt"}, "timescale_steps or a warm-up must be set for rsqrt"),
        ({"name": "step"}, "every_steps .* must be set for step"),
    ],
)
def test_mistakes(schedule, said):
    with pytest.raises(InputError, match=said) as caught:
        rates(10, **schedule)
    assert "\n" not in str(caught.value)
