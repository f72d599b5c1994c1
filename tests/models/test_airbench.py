"""airbench's net: whitening, initial values, and the output, computed again in NumPy."""

import itertools

import jax
import numpy as np
import pytest
import scipy.special

from cv_jax import models
from cv_jax.models import airbench

WIDTHS, CLASSES, SIDE = (6, 5), 4, 14


def images(count=6, channels=3):
    rng = np.random.default_rng(0)
    smooth = rng.standard_normal((count, SIDE, SIDE, channels)).cumsum(1).cumsum(2) / 5
    return (smooth + 0.3 * rng.standard_normal(smooth.shape)).astype(np.float32)


@pytest.fixture(scope="module")
def drawn():
    """The model and its initial variables."""
    model = models.create("airbench94", widths=WIDTHS, num_classes=CLASSES)
    return model, jax.device_get(model.init(jax.random.key(0), images(1)))


# ---- The network in float64 NumPy, as in the reference


def convolve(x, kernel, padding):
    x = np.pad(x, ((0, 0), (padding,) * 2, (padding,) * 2, (0, 0)))
    size = len(kernel)
    height, width = (side - size + 1 for side in x.shape[1:3])
    return sum(
        x[:, a : a + height, b : b + width] @ kernel[a, b]
        for a, b in itertools.product(range(size), repeat=2)
    )


def max_pool(x, size):
    rows, columns = (side // size for side in x.shape[1:3])
    x = x[:, : rows * size, : columns * size]
    return x.reshape(len(x), rows, size, columns, size, -1).max((2, 4))


def gelu(x):
    return x * (1 + scipy.special.erf(x / 2**0.5)) / 2


def network(variables, x, train):
    """Return logits and the running statistics of PyTorch's BatchNorm2d(momentum=0.4)."""
    p, stats = variables["params"], {}
    x = gelu(convolve(x.astype(np.float64), p["whiten"]["kernel"], 0) + p["whiten"]["bias"])
    for group, i in itertools.product((1, 2), (1, 2)):
        own = p[f"layers_{group}"]
        x = convolve(x, own[f"conv{i}"]["kernel"], 1)
        if i == 1:
            x = max_pool(x, 2)
        old = variables["batch_stats"][f"layers_{group}"][f"norm{i}"]
        mean, var = old["mean"], old["var"]
        if train:
            mean, var, n = x.mean((0, 1, 2)), x.var((0, 1, 2)), x.size // x.shape[-1]
            stats[group, i] = {
                "mean": 0.6 * old["mean"] + 0.4 * mean,
                "var": 0.6 * old["var"] + 0.4 * var * n / (n - 1),
            }
        x = gelu((x - mean) / np.sqrt(var + 1e-12) + own[f"norm{i}"]["bias"])
    x = max_pool(x, 3).reshape(len(x), -1)
    return x @ p["head"]["kernel"] / x.shape[1], stats


@pytest.mark.parametrize("train", [False, True])
def test_the_output_is_that_of_numpy(drawn, train):
    model, variables = drawn
    rng = np.random.default_rng(1)
    variables = jax.tree.map(
        lambda x: (x + 0.1 * np.abs(rng.standard_normal(x.shape))).astype(np.float32), variables
    )
    expected, stats = network(variables, images(), train)
    (logits, _), new = model.apply(variables, images(), train=train, mutable=["batch_stats"])
    np.testing.assert_allclose(logits, expected, rtol=2e-4, atol=2e-5)
    for (group, i), values in stats.items():
        for name, value in values.items():
            found = new["batch_stats"][f"layers_{group}"][f"norm{i}"][name]
            np.testing.assert_allclose(found, value, rtol=1e-4, atol=1e-4)


# ---- Whitening


def patches_of(x):
    """Patches [N, 4·C] by a loop over places."""
    places = itertools.product(range(SIDE - 1), repeat=2)
    return np.concatenate([x[:, i : i + 2, j : j + 2].reshape(len(x), -1) for i, j in places])


@pytest.mark.parametrize("channels", [1, 3])
def test_responses_are_white(channels):
    """Their second moments are λ/(λ + ε) and 0; the second half has the opposite sign."""
    x = images(40, channels)
    kernel = np.asarray(airbench.whitening_kernel(x), np.float64)
    count = 4 * channels
    assert kernel.shape == (2, 2, channels, 2 * count)
    np.testing.assert_array_equal(kernel[..., count:], -kernel[..., :count])
    patches = patches_of(x).astype(np.float64)
    moments = patches.T @ patches / len(patches)
    values = np.linalg.eigvalsh(moments)
    responses = convolve(x, kernel[..., :count], 0).reshape(-1, count)
    found = responses.T @ responses / len(responses)
    np.testing.assert_allclose(found, np.diag(values / (values + 5e-4)), atol=2e-3)


def test_the_kernel_is_that_of_numpy():
    """Up to the sign of each eigenvector."""
    x = images(40)
    patches = patches_of(x).astype(np.float64)
    values, vectors = np.linalg.eigh(patches.T @ patches / len(patches))
    expected = vectors / np.sqrt(values + 5e-4)
    found = np.asarray(airbench.whitening_kernel(x)).reshape(12, 24)[:, :12]
    signs = np.sign((expected * found).sum(0))
    np.testing.assert_allclose(found, expected * signs, rtol=1e-2, atol=1e-2)


def test_only_the_kernel_depends_on_images(drawn):
    _, variables = drawn
    found = airbench.whiten(variables, images())
    expected = airbench.whitening_kernel(images())
    np.testing.assert_array_equal(found["params"]["whiten"]["kernel"], expected)
    found["params"]["whiten"]["kernel"] = variables["params"]["whiten"]["kernel"]
    for new, old in zip(*map(jax.tree.leaves, (found, variables)), strict=True):
        np.testing.assert_array_equal(new, old)


# ---- Initial values


def test_the_first_filters_copy_their_input(drawn):
    """`torch.nn.init.dirac_` on the first filters, as many as there are input channels."""
    _, variables = drawn
    kernel = variables["params"]["layers_2"]["conv2"]["kernel"]  # 5 channels to 5
    x = np.random.default_rng(0).standard_normal((2, 4, 4, 5))
    np.testing.assert_array_equal(convolve(x, kernel, 1), x)
    wide = np.asarray(airbench.dirac_first(jax.random.key(0), (3, 3, 2, 400), np.float32))
    x = x[..., :2]
    np.testing.assert_array_equal(convolve(x, wide, 1)[..., :2], x)
    bound = (9 * 2) ** -0.5
    assert 0.99 * bound < np.abs(wide[..., 2:]).max() <= bound
    assert abs(wide[..., 2:].std() - bound / 3**0.5) < 0.01


def test_head_and_bias_have_the_published_size(drawn):
    model, variables = drawn
    params = variables["params"]
    assert np.std(params["head"]["kernel"], ddof=1) == pytest.approx(1, rel=1e-5)
    bias = params["whiten"]["bias"]
    assert 0.8 * 12**-0.5 < np.abs(bias).max() <= 12**-0.5
    assert set(params["layers_1"]["norm1"]) == {"bias"}
    with pytest.raises(ValueError, match="widths must be at least 1"):
        model.clone(widths=(4, 0)).init(jax.random.key(0), images(1))
