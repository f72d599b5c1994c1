"""Optimisers, against NumPy code from their papers, in float64."""

import jax
import numpy as np
import pytest
from updates import DECAY, RATE, UPDATES, draws, optimiser_of, rate, run, sizes, tree

from cv_jax.errors import InputError
from cv_jax.optim import optimisers

# ---- Directions: (name, gradient, parameter, number of the update from 1, decay) → update before
# the learning rate. Each closure keeps its moments by name.


def sgd(m=0.0, nesterov=False):
    v = {}

    def direction(name, g, w, count, decay):
        g = g + decay * w
        v[name] = m * v.get(name, 0) + g
        return g + m * v[name] if nesterov else v[name]

    return direction


def adam(b1, b2, eps, decoupled=True, nesterov=False):
    m, v = {}, {}

    def direction(name, g, w, count, decay):
        g = g if decoupled else g + decay * w
        m[name] = b1 * m.get(name, 0) + (1 - b1) * g
        v[name] = b2 * v.get(name, 0) + (1 - b2) * g**2
        mean = m[name] / (1 - b1**count)
        if nesterov:
            mean = b1 * m[name] / (1 - b1 ** (count + 1)) + (1 - b1) * g / (1 - b1**count)
        step = mean / (np.sqrt(v[name] / (1 - b2**count)) + eps)
        return step + decay * w if decoupled else step

    return direction


def lamb(b1, b2, eps):
    inner = adam(b1, b2, eps)

    def direction(name, g, w, count, decay):
        u = inner(name, g, w, count, decay)
        return u * np.linalg.norm(w) / np.linalg.norm(u) if decay else u

    return direction


def lars(m, trust):
    v = {}

    def direction(name, g, w, count, decay):
        u = g + decay * w
        if decay:
            u = u * trust * np.linalg.norm(w) / np.linalg.norm(u)
        v[name] = m * v.get(name, 0) + u
        return v[name]

    return direction


def lion(b1, b2):
    m = {}

    def direction(name, g, w, count, decay):
        step = np.sign(b1 * m.get(name, 0) + (1 - b1) * g)
        m[name] = b2 * m.get(name, 0) + (1 - b2) * g
        return step + decay * w

    return direction


def rms(x):
    return np.sqrt(np.mean(x**2))


def adafactor(b1, b2, relative):
    """Algorithms 4 and 5; a convolution kernel is one matrix per position of the window."""
    rows, columns, v, m = {}, {}, {}, {}

    def direction(name, g, w, count, decay):
        b = min(b2, 1 - count**-0.8)
        square = g**2 + 1e-30
        if g.ndim > 1 and sorted(g.shape)[-2] > 1:
            r, c = square.sum(-1, keepdims=True), square.sum(-2, keepdims=True)
            rows[name] = b * rows.get(name, 0) + (1 - b) * r
            columns[name] = b * columns.get(name, 0) + (1 - b) * c
            second = rows[name] * columns[name] / rows[name].sum(-2, keepdims=True)
        else:
            second = v[name] = b * v.get(name, 0) + (1 - b) * square
        u = g / np.sqrt(second)
        u = u / max(1, rms(u))
        u = u * (max(1e-3, rms(w)) if relative else 1)
        if b1:
            u = m[name] = b1 * m.get(name, 0) + (1 - b1) * u
        return u + decay * w

    return direction


def newton_schulz(x):
    if len(x) > len(x.T):
        return newton_schulz(x.T).T
    x = x / np.linalg.norm(x)
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x - 4.7750 * gram @ x + 2.0315 * gram @ gram @ x
    return x


def muon(beta, rest):
    """Jordan et al.: average of gradients, Nesterov, orthogonal; scaled as in Liu et al."""
    average = {}

    def direction(name, g, w, count, decay):
        if name not in ("block/fc/kernel", "block/attn/qkv/kernel", "block/conv/kernel"):
            return rest(name, g, w, count, decay)
        average[name] = beta * average.get(name, 0) + (1 - beta) * g
        u = (1 - beta) * g + beta * average[name]
        blocks = np.split(u, 3, axis=1) if "qkv" in name else [u.reshape(-1, u.shape[-1])]
        blocks = [newton_schulz(b) * 0.2 * np.sqrt(max(b.shape)) for b in blocks]
        return np.concatenate(blocks, axis=1).reshape(u.shape) + decay * w

    return direction


CASES = [
    ({"name": "sgd", "momentum": 0.0}, sgd()),
    ({"name": "sgd", "momentum": 0.9}, sgd(0.9)),
    ({"name": "sgd", "momentum": 0.9, "nesterov": True}, sgd(0.9, True)),
    ({"name": "adam", "b2": 0.99}, adam(0.9, 0.99, 1e-8, decoupled=False)),
    ({"name": "adamw", "b1": 0.8, "b2": 0.95, "eps": 1e-3}, adam(0.8, 0.95, 1e-3)),
    ({"name": "nadam"}, adam(0.9, 0.999, 1e-8, decoupled=False, nesterov=True)),
    ({"name": "nadamw"}, adam(0.9, 0.999, 1e-8, nesterov=True)),
    ({"name": "lamb", "eps": 1e-6}, lamb(0.9, 0.999, 1e-6)),
    ({"name": "lars", "trust_coefficient": 0.02}, lars(0.9, 0.02)),
    ({"name": "lion", "b2": 0.99}, lion(0.9, 0.99)),
    ({"name": "adafactor", "b1": 0.0}, adafactor(0.0, 0.999, True)),
    (
        {"name": "adafactor", "parameter_scale": False, "b2": 0.5},
        adafactor(0.9, 0.5, False),
    ),
    ({"name": "muon", "momentum": 0.95}, muon(0.95, adam(0.9, 0.999, 1e-8))),
    (
        {
            "name": "muon",
            "momentum": 0.6,
            "others": "sgd",
            "others_momentum": 0.8,
            "nesterov": True,
        },
        muon(0.6, sgd(0.8, True)),
    ),
]


@pytest.mark.parametrize(
    ("fields", "direction"), CASES, ids=lambda x: x.get("name", "") if isinstance(x, dict) else ""
)
def test_the_first_updates(fields, direction, monkeypatch):
    monkeypatch.setattr(optimisers, "MIN_FACTORED", 2)
    values = draws(0, 0.5)
    gradients = [draws(seed, 3) for seed in range(1, 1 + UPDATES)]
    texts = (".*bias|pos_embed: decay=0", "head/.*: lr=0.5 decay=2")
    got, _ = run(optimiser_of(tree(values), texts, **fields), tree(values), map(tree, gradients))
    factors = {"head/kernel": (0.5, 2), "block/fc/bias": (1, 0), "pos_embed": (1, 0)}
    for count, grads in enumerate(gradients, 1):
        for name, w in values.items():
            lr, decay = factors.get(name, (1, 1))
            step = direction(name, grads[name], w, count, decay * DECAY)
            values[name] = w - rate(count - 1) * lr * step
    for name, value in values.items():
        np.testing.assert_allclose(got[name], value, rtol=1e-4, atol=2e-5, err_msg=name)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_a_parameter_with_an_end_runs_through_the_whole_schedule_before_it(name):
    """`until=30%` of 10 updates: the rates of the updates 0, 10/3 and 20/3, then none."""
    values = draws(0, 0.5)
    gradients = [draws(seed, 3) for seed in range(1, 6)]
    fields = dict(name=name, momentum=0.0, nesterov=False)
    texts = ("head/.*: until=30%",)
    got, state = run(
        optimiser_of(tree(values), texts, **fields), tree(values), map(tree, gradients)
    )
    direction, place = (sgd() if name == "sgd" else adam(0.9, 0.999, 1e-8)), "head/kernel"
    w = values[place]
    for count, grads in enumerate(gradients):
        step = direction(place, grads[place], w, count + 1, DECAY)
        w = w - (rate(count / 0.3) if count < 3 else 0) * step
    np.testing.assert_allclose(got[place], w, rtol=1e-4, atol=2e-5)
    first, _ = run(
        optimiser_of(tree(values), texts, **fields), tree(values), map(tree, gradients[:3])
    )
    np.testing.assert_array_equal(got[place], first[place])
    plain, other = run(optimiser_of(tree(values), **fields), tree(values), map(tree, gradients))
    assert jax.tree.structure(state) == jax.tree.structure(other)
    np.testing.assert_allclose(got["pos_embed"], plain["pos_embed"], rtol=1e-6)


@pytest.mark.parametrize("name", ["sgd", "adamw", "lamb", "lars", "adafactor", "muon"])
def test_scanned_blocks_move_as_unrolled_ones(name):
    shapes = {"mlp/fc1/kernel": (40, 33), "attn/qkv/kernel": (8, 24), "norm1/scale": (8,)}
    unrolled = {f"blocks_{i}/{n}": shape for i in range(3) for n, shape in shapes.items()}

    def stack(flat):
        return {
            f"blocks/{n}": np.stack([flat[f"blocks_{i}/{n}"] for i in range(3)]) for n in shapes
        }

    values = {k: x * (1 + int(k[7])) for k, x in draws(0, 1.0, unrolled).items()}
    gradients = [draws(seed, 3, unrolled) for seed in (1, 2)]
    fields = dict(
        texts=(".*scale: decay=0", "blocks_1/.*: lr=0.5"),
        name=name,
        clip_adaptive=0.1 if name == "sgd" else None,
    )
    expected, _ = run(optimiser_of(tree(values), **fields), tree(values), map(tree, gradients))
    values, gradients = stack(values), map(stack, gradients)
    got, _ = run(optimiser_of(tree(values), **fields), tree(values), map(tree, gradients))
    for n, x in stack(expected).items():
        np.testing.assert_allclose(got[n], x, rtol=1e-4, atol=1e-5, err_msg=n)


def test_clipping():
    values, gradient = draws(0, 0.5), draws(1, 3)

    def clipped(**fields):
        plain = dict(name="sgd", momentum=0.0, weight_decay=0.0)
        got, _ = run(optimiser_of(tree(values), **plain, **fields), tree(values), [tree(gradient)])
        return {name: (values[name] - x) / RATE for name, x in got.items()}

    norm = np.sqrt(sum((g**2).sum() for g in gradient.values()))
    for name, g in clipped(clip_norm=2.0).items():
        np.testing.assert_allclose(g, gradient[name] * 2 / norm, atol=1e-5)
    for name, g in clipped(clip_value=1.5).items():
        np.testing.assert_allclose(g, np.clip(gradient[name], -1.5, 1.5), atol=1e-5)
    for name, g in clipped(clip_adaptive=0.1).items():
        # A unit is the column of one output, or a whole vector; the head is not clipped.
        units = -1 if name.endswith("kernel") else 1
        w, x = values[name].reshape(-1, values[name].shape[-1]), gradient[name]
        flat = x.reshape(w.shape)
        axis = 0 if units == -1 else None
        limit = 0.1 * np.maximum(np.linalg.norm(w, axis=axis), 1e-3)
        size = np.linalg.norm(flat, axis=axis)
        expected = flat if name == "head/kernel" else flat * np.minimum(1, limit / size)
        np.testing.assert_allclose(g, expected.reshape(x.shape), atol=1e-5, err_msg=name)


def test_frozen_parameters_stay_bit_equal_and_have_no_state():
    values = draws(0, 0.5)
    values["block/fc/bias"][:] = -0.0  # adding zero would change it
    gradients = [tree(draws(seed, 3)) for seed in (1, 2)]
    for name in ("sgd", "adamw", "adafactor", "muon"):
        fields = dict(texts=("block/.*: freeze",), name=name, clip_norm=1.0)
        got, state = run(optimiser_of(tree(values), **fields), tree(values), gradients)
        for n, x in got.items():
            same = np.asarray(x).tobytes() == np.float32(values[n]).tobytes()
            assert same == n.startswith("block/"), (name, n)
        assert set(sizes(state)) <= {1, 12}, name


def test_the_norm_of_what_is_frozen_does_not_clip():
    values, gradient = draws(0, 0.5), draws(1, 3)
    fields = dict(texts=("(?!head).*: freeze",), name="sgd", momentum=0.0, weight_decay=0.0)
    got, _ = run(
        optimiser_of(tree(values), clip_norm=2.0, **fields), tree(values), [tree(gradient)]
    )
    g = gradient["head/kernel"]
    expected = values["head/kernel"] - RATE * g * min(1, 2 / np.linalg.norm(g))
    np.testing.assert_allclose(got["head/kernel"], expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"clip_norm": 1.0, "clip_value": 1.0}, "clip_norm and .clip_value are both set"),
        ({"name": "lion", "moment_dtype": "bfloat16"}, "a moment with b2=0.999 never falls"),
        (
            {"name": "muon", "momentum": 0.999, "moment_dtype": "bfloat16"},
            "set config.optim.momentum to at most 0.99609375, or moment_dtype=float32",
        ),
        (
            {
                "name": "muon",
                "others": "sgd",
                "others_momentum": 0.999,
                "moment_dtype": "bfloat16",
            },
            "a moment with others_momentum=0.999 never falls",
        ),
    ],
)
def test_mistakes(fields, said):
    with pytest.raises(InputError, match=said) as caught:
        optimiser_of(tree(draws(0, 1.0)), **fields)
    assert "\n" not in str(caught.value)
