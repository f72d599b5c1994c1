"""Attention against a loop over queries."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cv_jax import models
from cv_jax.models import attention
from cv_jax.models.attention import Attention, attend, chosen, merge_heads, split_heads

few = settings(deadline=None, max_examples=10)
sizes = st.integers(1, 5)


@few
@given(
    heads=sizes, queries=sizes, keys=sizes, dim=sizes, masked=st.booleans(), biased=st.booleans()
)
def test_attend(heads, queries, keys, dim, masked, biased):
    rng = np.random.default_rng(keys)
    q, k, v = (rng.standard_normal((2, heads, n, dim)) for n in (queries, keys, keys))
    bias = rng.standard_normal((heads, queries, keys)) if biased else None
    mask = rng.random((2, 1, queries, keys)) < 0.6 if masked else None
    if masked:
        mask[..., 0] = True
    out, weights = attend(*(jnp.asarray(x, jnp.float32) for x in (q, k, v)), bias=bias, mask=mask)
    for b in range(2):
        for h in range(heads):
            for i in range(queries):
                scores = k[b, h] @ q[b, h, i] / np.sqrt(dim)
                scores = scores + bias[h, i] if biased else scores
                powers = np.exp(scores) * (mask[b, 0, i] if masked else 1)
                np.testing.assert_allclose(weights[b, h, i], powers / powers.sum(), atol=1e-5)
                np.testing.assert_allclose(out[b, h, i], powers / powers.sum() @ v[b, h], atol=1e-5)


def test_a_fully_masked_query_gets_the_mean():
    v = jnp.arange(6.0).reshape(1, 1, 3, 2)
    out, _ = attend(v, v, v, mask=np.zeros((1, 1, 3, 3), bool))
    np.testing.assert_allclose(out, np.broadcast_to([2.0, 3.0], (1, 1, 3, 2)))


def test_heads_split_and_merge():
    x = np.arange(24).reshape(1, 4, 6)
    heads = split_heads(x, 3)
    assert heads.shape == (1, 3, 4, 2)
    np.testing.assert_array_equal(heads[0, 1], x[0, :, 2:4])
    np.testing.assert_array_equal(merge_heads(heads), x)


def test_softmax_is_float32_in_half_precision():
    """Scores near 300 that are equal in bfloat16 still give different weights."""
    q = jnp.full((1, 1, 1, 1), 300.0, jnp.bfloat16)
    k = jnp.asarray([1.0, 1.0078125], jnp.bfloat16).reshape(1, 1, 2, 1)
    _, weights = attend(q, k, k, scale=1.0)
    expected = 1 / (1 + np.exp(-300 * 0.0078125))
    assert weights.dtype == jnp.bfloat16
    assert float(weights[0, 0, 0, 1]) == pytest.approx(expected, rel=4e-3)


def test_qk_norm_bounds_the_scores():
    x = 1e3 * jax.random.normal(jax.random.key(0), (1, 6, 8))
    layer = Attention(num_heads=2, qk_norm=True)
    variables = layer.init(jax.random.key(1), x, train=False)
    _, weights = layer.apply(variables, x, train=False)
    # Normalised vectors of dimension 4 have products within ±4, hence scores within ±2.
    assert float((weights.max(axis=-1) / weights.min(axis=-1)).max()) < np.exp(4) * 1.01


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_cudnn_is_refused_in_one_line(dtype):
    if jax.default_backend() == "gpu" and dtype == "bfloat16":
        pytest.skip("cuDNN is here")
    q = jnp.ones((1, 1, 2, 8), dtype)
    with pytest.raises(ValueError, match="implementation 'cudnn' needs") as error:
        attend(q, q, q, implementation="cudnn")
    assert "\n" not in str(error.value)


def outputs_and_gradients(q, k, v, implementation):
    """The output, and the gradients of its sum of squares, as float32."""

    def loss(*arrays):
        out, _ = attend(*arrays, implementation=implementation)
        return jnp.square(out.astype(jnp.float32)).sum(), out

    gradients, out = jax.grad(loss, (0, 1, 2), has_aux=True)(q, k, v)
    return [np.asarray(x, np.float32) for x in (out, *gradients)]


@pytest.mark.parametrize(("queries", "keys"), [(7, 7), (7, 4), (4, 7), (4, 4)])
def test_the_fused_kernel_gets_even_lengths(monkeypatch, queries, keys):
    """JAX's own implementation in place of the kernel: equal outputs and gradients."""
    jax_attention = jax.nn.dot_product_attention

    def kernel(q, k, v, *, implementation, **arguments):
        assert implementation == "cudnn"
        assert q.shape[1] % 2 == k.shape[1] % 2 == v.shape[1] % 2 == 0
        return jax_attention(q, k, v, implementation="xla", **arguments)

    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax.nn, "dot_product_attention", kernel)
    q, k, v = (
        jax.random.normal(jax.random.key(i), (2, 3, n, 8), jnp.bfloat16)
        for i, n in enumerate((queries, keys, keys))
    )
    fused = outputs_and_gradients(q, k, v, "cudnn")
    for got, expected in zip(fused, outputs_and_gradients(q, k, v, "xla"), strict=True):
        assert np.linalg.norm(got - expected) <= 1e-2 * np.linalg.norm(expected)


@pytest.mark.gpu
@pytest.mark.skipif(jax.default_backend() != "gpu", reason="needs a GPU")
@pytest.mark.parametrize("tokens", [196, 197])
def test_cudnn_equals_xla(tokens):
    q, k, v = jax.random.normal(jax.random.key(0), (3, 2, 4, tokens, 64), jnp.bfloat16)
    fused = outputs_and_gradients(q, k, v, "cudnn")
    for got, expected in zip(fused, outputs_and_gradients(q, k, v, "xla"), strict=True):
        assert np.linalg.norm(got - expected) <= 2e-2 * np.linalg.norm(expected)


@pytest.mark.parametrize(
    ("nvidia", "dtype", "head_dim", "implementation"),
    [
        (True, "bfloat16", 64, "cudnn"),
        (True, "float16", 128, "cudnn"),
        (True, "float32", 64, "xla"),
        (True, "bfloat16", 20, "xla"),
        (True, "bfloat16", 160, "xla"),
        (False, "bfloat16", 64, "xla"),
    ],
)
def test_auto_is_the_fused_kernel_where_it_works(
    monkeypatch, nvidia, dtype, head_dim, implementation
):
    monkeypatch.setattr(attention, "_on_nvidia", lambda: nvidia)
    monkeypatch.setattr(attention, "_attend_cudnn", lambda q, *rest: jnp.full_like(q, 7))
    assert chosen("auto", dtype, head_dim) == implementation
    assert chosen("xla", dtype, head_dim) == "xla"
    assert chosen("cudnn", dtype, head_dim) == "cudnn"
    q = jnp.ones((1, 1, 3, head_dim), dtype)
    out, weights = attend(q, q, q, implementation="auto")
    assert (weights is None) == (implementation == "cudnn")
    assert float(out[0, 0, 0, 0]) == (7 if implementation == "cudnn" else 1)
    _, weights = attend(q, q, q, mask=np.ones((3, 3), bool), implementation="auto")
    assert weights is not None


def test_auto_returns_weights_where_a_model_needs_them(monkeypatch):
    monkeypatch.setattr(attention, "_on_nvidia", lambda: True)
    monkeypatch.setattr(attention, "_attend_cudnn", lambda q, *rest: q)
    fields = dict(image_size=16, width=16, depth=1, num_heads=2, dtype="bfloat16")
    image = jnp.ones((1, 16, 16, 3))

    def features(**more):
        model = models.create("vit_ti16", **fields, attention_implementation="auto", **more)
        return jax.eval_shape(lambda: model.init_with_output(jax.random.key(0), image))[0][1]

    assert features(attention_weights=True)["blocks_0/attention"].shape == (1, 2, 2, 2)
    assert "blocks_0/attention" not in features()


@pytest.mark.skipif(jax.default_backend() == "gpu", reason="the fused kernel is chosen there")
def test_auto_is_xla_without_a_gpu():
    fields = dict(image_size=16, width=16, depth=1, num_heads=2)
    image = jnp.ones((1, 16, 16, 3))
    model = models.create("vit_ti16", **fields)
    variables = model.init(jax.random.key(0), image)
    auto = model.clone(attention_implementation="auto")
    for expected, found in zip(
        *(jax.tree.leaves(m.apply(variables, image)) for m in (model, auto)), strict=True
    ):
        np.testing.assert_array_equal(found, expected)
