"""Policies: scales compared with timm and torchvision, pixels with Pillow under the same plan."""

import collections
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from pillow import operate, to_array, to_pillow

from cv_jax import augment
from cv_jax.augment import autoaugment, plan, policies

GOLDEN = json.loads((pathlib.Path(__file__).parent.parent / "golden" / "policies.json").read_text())
SIZE = tuple(GOLDEN["size"])
NAMES = {
    "AutoContrast": "autocontrast",
    "Equalize": "equalise",
    "Invert": "invert",
    "Posterize": "posterise",
    "PosterizeIncreasing": "posterise",
    "Solarize": "solarise",
    "SolarizeIncreasing": "solarise",
    "SolarizeAdd": "solarise_add",
    "ShearX": "shear_x",
    "ShearY": "shear_y",
    "TranslateX": "translate_x",
    "TranslateXRel": "translate_x",
    "TranslateY": "translate_y",
    "TranslateYRel": "translate_y",
    "Color": "saturation",
    "ColorIncreasing": "saturation",
}
for _name in ("Identity", "Rotate", "Brightness", "Contrast", "Sharpness"):
    NAMES[_name] = NAMES[f"{_name}Increasing"] = _name.lower()


@pytest.mark.parametrize("increasing", [True, False])
def test_scales_of_randaugment_match_timm(increasing):
    scales = GOLDEN["randaugment_increasing" if increasing else "randaugment"]
    magnitudes = jnp.asarray(GOLDEN["magnitudes"])
    ours = policies.randaugment_scale(magnitudes, jnp.array(False), increasing, SIZE)
    assert len(scales) == len(ours) == 12
    for name, values in scales.items():
        unit = dict(TranslateXRel=SIZE[1], TranslateYRel=SIZE[0]).get(name, 1)
        np.testing.assert_allclose(ours[NAMES[name]], np.array(values) * unit, rtol=1e-5)


@pytest.mark.parametrize("policy", ["trivialaugment", "autoaugment"])
def test_scales_match_torchvision(policy):
    space = {name: pair for name, pair in GOLDEN[policy].items() if isinstance(pair[0], list)}
    bins = jnp.arange(31.0 if policy == "trivialaugment" else 10.0)

    def scale(negative):
        if policy == "trivialaugment":
            return policies.trivialaugment_scale(bins, jnp.array(negative))
        return autoaugment.autoaugment_scale(bins, jnp.array(negative), SIZE)

    above, below = scale(False), scale(True)
    for name, (values, signed) in space.items():
        values, ours = np.array(values), NAMES[name]
        if name in ("TranslateX", "TranslateY"):
            values = np.trunc(values + 1e-4)  # torch.linspace gives 15.999999
        factor = 1 if ours in plan.FACTORS else 0
        np.testing.assert_allclose(above[ours], factor + values, rtol=1e-5, atol=1e-5)
        if factor:
            np.testing.assert_allclose(below[ours], 1 - values, rtol=1e-4, atol=1e-5)
        assert signed == (ours in plan.FACTORS or ours in plan.SIGNED)
    # Operations without a strength have no scale.
    assert set(plan.OPERATIONS) - set(above) >= {"autocontrast", "equalise"}


@pytest.mark.parametrize("policy", ["imagenet", "cifar10", "svhn"])
def test_pairs_of_autoaugment_match_torchvision(policy):
    theirs = [[(NAMES[n], p, s) for n, p, s in pair] for pair in GOLDEN["policies"][policy]]
    ours = autoaugment.policy_table(policy)
    assert len(ours) == 25
    for pair, other in zip(ours, theirs, strict=True):
        for (name, probability, strength), (name_, probability_, strength_) in zip(
            pair, other, strict=True
        ):
            assert (name, probability) == (name_, probability_)
            assert strength == strength_ or strength_ is None


PLANS = {
    "randaugment(2, 9, 0.5)": lambda key, size: policies.plan_randaugment(
        key, size, 2, 9.0, 0.5, True, 0.5
    ),
    "trivialaugment": lambda key, size: policies.plan_trivialaugment(key),
    "autoaugment('cifar10')": lambda key, size: autoaugment.plan_autoaugment(key, size, "cifar10"),
}


@pytest.mark.parametrize("string", PLANS)
def test_pixels_match_pillow_under_the_same_plan(string):
    count, size = 60, (24, 32)
    keys = jax.random.split(jax.random.key(5), count)
    plans = jax.jit(jax.vmap(lambda key: PLANS[string](jax.random.fold_in(key, 0), size)))(keys)
    method, fill = ("bicubic", 128) if "rand" in string else ("nearest", 0)
    for channels in (3, 1) if "trivial" in string else (3,):
        images = np.random.default_rng(channels).integers(0, 256, (count, *size, channels))
        images[::2] = images[::2].cumsum(axis=2) // np.arange(1, 33)[:, None]  # less contrast
        operations = augment.parse(string).image
        got = jax.jit(lambda keys, x: augment.apply_images(operations, keys, x))(  # noqa: B023
            keys, jnp.asarray(images, jnp.float32)
        )
        for i in range(count):
            want = to_pillow(images[i])
            steps = [
                (plan.OPERATIONS[int(o)], float(a))
                for o, a in zip(plans.operation[i], plans.argument[i], strict=True)
            ]
            for name, argument in steps:
                want = operate(want, name, argument, method, fill)
            off = np.abs(np.asarray(got[i]) - to_array(want))
            names = {name for name, _ in steps}
            inexact = names & {*plan.SIGNED, "autocontrast"}
            # Later operations may amplify the one grey level of an inexact operation.
            if not inexact:
                assert off.max() == 0, steps
            elif len(names - {"identity"}) == 1:
                assert (off > 1).mean() < 0.05, steps  # samples at the border of a pixel
            else:
                assert np.median(off) <= 1, steps


def test_randaugment_draws_operations_uniformly():
    keys = jax.random.split(jax.random.key(0), 3000)
    drawn = jax.jit(jax.vmap(lambda key: PLANS["randaugment(2, 9, 0.5)"](key, SIZE)))(keys)
    counts = np.bincount(np.asarray(drawn.operation).ravel(), minlength=len(plan.OPERATIONS))
    # Half of the layers are the identity; the other operations are equally likely.
    assert scipy.stats.binomtest(int(counts[0]), 6000, 0.5).pvalue > 1e-3
    assert scipy.stats.chisquare(counts[1:]).pvalue > 1e-3
    degrees = np.asarray(drawn.argument)[np.asarray(drawn.operation) == plan.NUMBER["rotate"]]
    assert scipy.stats.binomtest(int((degrees > 0).sum()), len(degrees), 0.5).pvalue > 1e-3
    magnitudes = np.abs(degrees) / 3
    below = magnitudes[magnitudes < 9.99]
    normal = scipy.stats.truncnorm(-18, (9.99 - 9) / 0.5, 9, 0.5)
    assert scipy.stats.kstest(below, normal.cdf).pvalue > 1e-3


def test_trivialaugment_draws_operations_and_strengths_uniformly():
    keys = jax.random.split(jax.random.key(1), 6000)
    drawn = jax.jit(jax.vmap(policies.plan_trivialaugment))(keys)
    names = collections.Counter(plan.OPERATIONS[int(o)] for o in drawn.operation[:, 0])
    assert len(names) == 14
    assert scipy.stats.chisquare(list(names.values())).pvalue > 1e-3
    shears = np.abs(np.asarray(drawn.argument)[drawn.operation == plan.NUMBER["shear_x"]])
    bins = np.bincount(np.round(shears / 0.033).astype(int), minlength=31)
    assert len(bins) == 31
    assert scipy.stats.chisquare(bins).pvalue > 1e-3


def test_autoaugment_applies_the_pairs_with_their_probabilities():
    keys = jax.random.split(jax.random.key(2), 5000)
    drawn = jax.jit(jax.vmap(lambda key: autoaugment.plan_autoaugment(key, SIZE, "imagenet")))(keys)
    table = autoaugment.policy_table("imagenet")
    for place in range(2):
        for name in ("equalise", "rotate", "saturation"):
            expected = sum(p for row in table for n, p, _ in [row[place]] if n == name) / 25
            count = int((drawn.operation[:, place] == plan.NUMBER[name]).sum())
            assert scipy.stats.binomtest(count, 5000, expected).pvalue > 1e-3


def test_three_augment_is_one_of_three_operations():
    images = jnp.asarray(np.random.default_rng(0).integers(0, 256, (90, 6, 6, 3)), jnp.float32)
    keys = jax.random.split(jax.random.key(0), 90)
    operations = augment.parse("three_augment").image
    got = jax.jit(lambda keys, images: augment.apply_images(operations, keys, images))(keys, images)
    kinds = collections.Counter()
    for image, result in zip(np.asarray(images), np.asarray(got), strict=True):
        if (result == to_array(operate(to_pillow(image), "solarise", 128, "", 0))).all():
            kinds["solarise"] += 1
        elif (result == to_array(to_pillow(image).convert("L"))).all():
            kinds["grayscale"] += 1
        else:
            assert np.abs(np.diff(result, axis=0)).sum() < np.abs(np.diff(image, axis=0)).sum()
            kinds["blur"] += 1
    assert (
        scipy.stats.chisquare([kinds[k] for k in ("solarise", "grayscale", "blur")]).pvalue > 0.01
    )
