"""Receptive fields compared with brute force, published sizes and the closed formula."""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from slow import slow_except

from cv_jax import models
from cv_jax.inspect import receptive_field
from cv_jax.inspect.dependence import dependence, trace
from cv_jax.inspect.primitives import RULES

sys.path.append(str(Path(__file__).resolve().parent.parent / "models"))
from quick import quick_jit
from random_variables import random_variables
from small_models import SMALL

# One model of each kind, with the fields that differ from small_models.
BRUTE = {
    "linear": {},
    "lenet5": {},
    "lenet5_1998": {},
    "alexnet": {},
    # Enough channels that ReLU does not zero all units of a position.
    "vgg11_lrn": {"widths": (32, 16, 16, 16, 16)},
    "resnet18": {},
    "resnet50_v1": {},
    "resnet50_preact": {},
    "resnext": {},
    "resnet8_cifar": {"stem_width": 10, "widths": (10, 10), "stage_sizes": (1, 1)},
    "vit": {},
    "vit_map": {},
    "mae": {},
    "image_transformer": {},
    # Windows of 4 on a map of 8, shifted, and on a map of 4, a single window.
    "swin": {"window_size": 4},
    "swinv2": {},
    # Windows of 4 do not divide maps of 11 and 6; both rules pad differently.
    "swin, shrink": {"window_size": 4, "patch_size": 3},
    "swin, pad": {"window_size": 4, "patch_size": 3, "window_rule": "pad"},
}


def small_model(key, **fields):
    """Return (module, inputs) with a batch of one image."""
    small = SMALL[key.partition(",")[0]]
    model = models.create(small.name, **{**small.fields, **BRUTE.get(key, {}), **fields})
    inputs = small.inputs(1) if small.inputs else (jnp.zeros((1, *small.image)),)
    if key == "mae":
        inputs = (*inputs, jax.random.uniform(jax.random.key(3), (1, 16)))
    return model, inputs


QUICK = ("linear", "lenet5", "alexnet", "resnet8_cifar", "vit")


@pytest.mark.parametrize("key", slow_except(BRUTE, *QUICK))
def test_brute_force(key):
    """Units that change with a row, a column or a pixel, for every unit of every layer."""
    with jax.enable_x64(True):
        model, inputs = small_model(key, dtype="float64", param_dtype="float64")
        rows, columns, pixels, places = changes(model, inputs)
        size = inputs[0].shape[1:3]
        traced = [receptive_field.intervals(model, inputs, size, axis) for axis in (0, 1)]
    assert list(traced[0]) == list(rows)
    for name in rows:
        ends = []
        for axis, moved in enumerate((rows[name], columns[name])):
            expected = ends_of(moved)
            ends.append(np.broadcast_to(over_channels(traced[axis][name]), expected.shape))
            np.testing.assert_array_equal(ends[axis], expected, err_msg=f"{name}, axis {axis}")
        for (i, j), moved in zip(places, pixels[name], strict=True):
            inside = [
                (e[..., 0] <= p) & (p <= e[..., 1]) for e, p in zip(ends, (i, j), strict=True)
            ]
            assert not (moved & ~(inside[0] & inside[1])).any(), (name, i, j)


def changes(model, inputs):
    """Return the positions that change with each row, each column and some single pixels.

    Returns:
      Three dicts, feature → bool [H, W or pixels, positions…], whether any channel changes; and the
      pixels.
    """
    rng = np.random.default_rng(0)
    _, height, width, channels = inputs[0].shape
    image = rng.standard_normal((height, width, channels))
    places = rng.integers((height, width), size=(40, 2))
    images = np.repeat(image[None], 1 + height + width + len(places), axis=0)
    noise = 10 * rng.standard_normal(images.shape)
    for i in range(height):
        images[1 + i, i] += noise[1 + i, i]
    for j in range(width):
        images[1 + height + j, :, j] += noise[1 + height + j, :, j]
    for n, (i, j) in enumerate(places, 1 + height + width):
        images[n, i, j] += noise[n, i, j]

    variables = jax.tree_util.tree_map_with_path(
        lambda path, x: np.abs(x) if path[-1].key == "var" else x, random_variables(model, *inputs)
    )
    others = [jnp.repeat(x, len(images), axis=0) for x in inputs[1:]]
    names = []

    @quick_jit
    def run(images):
        output, features = model.apply(variables, images, *others, train=False)
        names.extend([*features, "output"])
        return [*features.values(), output]

    values = dict(zip(names, map(np.asarray, run(images)), strict=True))
    moved = {
        name: (np.abs(x[1:] - x[0]) > 1e-12 * np.abs(x).max()).any(-1) for name, x in values.items()
    }
    parts = zip(*(np.split(x, [height, height + width]) for x in moved.values()), strict=True)
    return *(dict(zip(moved, part, strict=True)) for part in parts), places


def ends_of(moved):
    """First and last True along the first axis: bool [n, …] → int […, 2], −1 without True."""
    last = len(moved) - 1 - moved[::-1].argmax(0)
    ends = np.stack([moved.argmax(0), last], axis=-1)
    return np.where(moved.any(0)[..., None], ends, -1)


def over_channels(ends):
    """Return the union over the last axis of units."""
    first = np.where(ends[..., 0] < 0, 10**6, ends[..., 0]).min(-1)
    last = ends[..., 1].max(-1)
    return np.stack([np.where(last < 0, -1, first), last], axis=-1)


# Araujo, Norris and Sim, "Computing receptive fields of convolutional neural networks", Distill
# 2019, table 1: AlexNet 195 (stride 32), VGG-16 212 (stride 32), after the last pooling.
@pytest.mark.parametrize(("name", "size"), [("alexnet", 195), ("vgg16", 212)])
def test_published_sizes(name, size):
    layers = {layer.name: layer for layer in of(name)}
    assert layers["pool5"].size == (size, size)
    assert layers["pool5"].stride == (32, 32)
    assert layers["pre_logits"].size is None
    assert layers["output"].seen == 1


@pytest.mark.parametrize("name", ["resnet18", "resnet50_v1", "plain20_cifar"])
def test_arithmetic_of_the_field(name):
    """size += (kernel − 1) · stride, layer by layer, along the branches."""
    model = models.create(name)
    size, stride = (11, 4) if model.stem == "imagenet" else (3, 1)
    layers = {layer.name: layer for layer in of(name)}
    for stage, blocks in enumerate(model.stage_sizes, 1):
        for i in range(blocks):
            for _, kernel, step, _ in model.convs(64, 2 if stage > 1 and i == 0 else 1):
                size, stride = size + (kernel - 1) * stride, stride * step
            assert layers[f"layer{stage}_{i}"].size == (size, size)
            assert layers[f"layer{stage}_{i}"].stride == (stride, stride)


def test_windows_and_whole_images():
    """Swin's first block covers one window of 7 patches, the shifted block two; ViT covers all."""
    model = models.create("swin_t", num_heads=(3,), depths=(2,))
    swin = receptive_field.layers(model, models.dummy_inputs("swin_t"), (224, 224))
    assert [(x.size, x.stride) for x in swin[:3]] == [
        ((4, 4), (4, 4)),
        ((28, 28), (4, 4)),
        ((56, 56), (4, 4)),
    ]
    embed, first, *_ = of("vit_ti16")
    assert (embed.size, embed.seen) == ((16, 16), pytest.approx(196 / 197 / 196))
    assert (first.size, first.seen) == (None, 1)


def test_rows_are_not_columns():
    model = models.create("lenet5")
    c1, s2, *_ = receptive_field.layers(model, models.dummy_inputs("lenet5"), (20, 32))
    assert c1.shape == (16, 28, 6)
    assert (s2.size, s2.stride, s2.shape) == ((6, 6), (2, 2), (8, 14, 6))
    assert c1.seen == pytest.approx(25 / (20 * 32))


def of(name):
    inputs = models.dummy_inputs(name)
    return receptive_field.layers(models.create(name), inputs, inputs[0].shape[1:3])


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (lambda x: jnp.sort(x, axis=1), "sort"),
        # Its inner program adds two numbers: it is no call.
        (lambda x: jax.lax.reduce(x, 0.0, lambda a, b: a + 2 * b, (2, 3)), "reduce"),
        (lambda x: jax.lax.while_loop(lambda y: y.sum() < 9, lambda y: y + 1, x), "while"),
        (lambda x: jax.lax.cond(x.sum() > 0, jnp.sin, jnp.cos, x), "cond"),
    ],
)
def test_unknown_primitives_are_refused(function, name):
    image = jax.ShapeDtypeStruct((1, 4, 4, 1), jnp.float32)
    message = f"primitive '{name}' of jax {jax.__version__}"
    with pytest.raises(NotImplementedError, match=message):
        dependence(trace(function, (image,)), image=0, axis=1)


def _of_a_later_version(fields, params, outputs):
    return fields[0].planes + params["exponent"]


def _without_an_axis(fields, params, outputs):
    return fields[0].planes[:, 0]


@pytest.mark.parametrize(
    ("rule", "what"),
    [
        (_of_a_later_version, "expects the parameter 'exponent'"),
        (_without_an_axis, "gives other shapes"),
    ],
)
def test_known_primitives_in_an_unknown_form_are_refused(monkeypatch, rule, what):
    monkeypatch.setitem(RULES, "sin", rule)
    image = jax.ShapeDtypeStruct((1, 4, 4, 1), jnp.float32)
    message = f"the dependence rule of the primitive 'sin' of jax {jax.__version__} {what}"
    with pytest.raises(NotImplementedError, match=message):
        dependence(trace(jax.jit(lambda x: jnp.sin(x) + 1), (image,)), image=0, axis=1)


def _loop(x):
    """Return a constant, a carried value and stacked values; from the last row to the first."""
    weights, start = jnp.array([1.0, 0.0, 1.0]), jnp.zeros(2)

    def step(carry, row):
        number, pixels = row
        return carry + weights[number] * pixels, (carry[0], pixels)

    rows = (jnp.arange(3), x[0, :3, 0])
    carry, (before, _) = jax.lax.scan(step, start, rows, reverse=True)
    return jnp.append(before, carry[0])


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda x: x[0, ::-1, 0, 0], [(4, 4), (3, 3), (2, 2), (1, 1), (0, 0)]),
        (lambda x: jnp.roll(x, 2, axis=1)[0, :, 0, 0], [(3, 3), (4, 4), (0, 0), (1, 1), (2, 2)]),
        (lambda x: x[0, 1::3, 0, 0] + x[0, 2, 1, 0], [(1, 2), (2, 4)]),
        (lambda x: x[0, 1:4, 0, 0] * jnp.array([1.0, 0.0, 2.0]), [(1, 1), (-1, -1), (3, 3)]),
        (lambda x: jnp.pad(x, ((0, 0), (1, 0), (0, 0), (0, 0)))[0, :2, 0, 0], [(-1, -1), (0, 0)]),
        (lambda x: x[0, jnp.array([3, 0]), 0, 0], [(3, 3), (0, 0)]),
        (lambda x: jnp.where(jnp.arange(5) == 1, -jnp.inf, x[0, :, 0, 0]).max(), (0, 4)),
        (lambda x: jnp.where(jnp.arange(5) > 2, -jnp.inf, x[0, :, 0, 0]).max(), (0, 2)),
        (
            lambda x: jax.lax.scan(lambda c, y: (c + y, c), 0.0, x[0, :3, 0, 0])[1][1:],
            [(0, 0), (0, 1)],
        ),
        (_loop, [(2, 2), (2, 2), (-1, -1), (0, 2)]),
        (lambda x: x.reshape(5, 6)[1:3, 0], [(1, 1), (2, 2)]),
        (lambda x: x.reshape(10, 3)[1:4, 0], [(0, 0), (1, 1), (1, 1)]),
        (lambda x: x.shape[1] * jnp.ones(1), [(-1, -1)]),
    ],
)
def test_rows_behind_what_a_function_returns(function, expected):
    image = jax.ShapeDtypeStruct((1, 5, 3, 2), jnp.float32)
    field = dependence(trace(function, (image,)), image=0, axis=1)
    first, last = np.broadcast_to(field.planes, (4, *field.shape))[:2]
    ends = np.stack([first, -last], -1)
    ends = np.where(first[..., None] == 2**30, -1, ends)
    np.testing.assert_array_equal(ends, np.asarray(expected))
