"""Muon: the parameters that it updates, and the orthogonalisation."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cv_jax import config, models
from cv_jax.optim import muon, optimisers, parameter_rules

VIT = dict(image_size=32, patch_size=8, width=24, depth=1, num_heads=3, num_classes=5)
MAE = dict(image_size=32, patch_size=8, width=24, depth=1, num_heads=3)
SWIN = dict(width=8, depths=(1, 1), num_heads=(1, 2), window_size=2, num_classes=5)
BLOCK = ("attn/qkv", "attn/proj", "mlp/fc1", "mlp/fc2")

# Model → (fields, layers whose kernels Muon updates, layers whose kernels AdamW updates).
KERNELS = {
    "linear": ({}, (), ("head",)),
    "mlp": (dict(widths=(8, 8)), ("fc2",), ("fc1", "head")),
    "lenet5": ({}, ("c3", "c5", "f6"), ("c1", "head")),
    "lenet5_1998": ({}, ("c5", "f6"), ("c1", "c3")),
    "alexnet_one_stream": (
        dict(channels=(4,) * 5, fc_width=8, pool_size=1),
        ("features_3", "features_6", "features_8", "features_10", "classifier_1", "classifier_4"),
        ("features_0", "head"),
    ),
    "vgg11": (
        dict(depths=(1, 1), widths=(4, 4), fc_width=8, pool_size=1),
        ("features_3", "classifier_0", "classifier_3"),
        ("features_0", "head"),
    ),
    "resnet50": (
        dict(stage_sizes=(1,), widths=(8,), stem_width=8),
        ("layer1_0/conv1", "layer1_0/conv2", "layer1_0/conv3", "layer1_0/downsample_0"),
        ("conv1", "head"),
    ),
    "deit_ti16_distilled": (
        VIT,
        tuple(f"blocks_0/{layer}" for layer in BLOCK),
        ("patch_embed", "head", "head_dist"),
    ),
    "mae_vit_b16": (
        dict(MAE, decoder_width=16, decoder_depth=1, decoder_num_heads=2),
        (
            "decoder_embed",
            *(f"{stack}blocks_0/{layer}" for stack in ("", "decoder_") for layer in BLOCK),
        ),
        ("patch_embed", "decoder_pred"),
    ),
    "image_transformer_ti": (
        dict(image_size=32, patch_size=8, width=24, depth=1, num_heads=3, decoder_depth=1),
        (
            *(f"encoder/blocks_0/{layer}" for layer in BLOCK),
            *(
                f"decoder/layers_0/{attention}/{layer}_proj"
                for attention in ("self_attn", "multihead_attn")
                for layer in ("q", "k", "v", "out")
            ),
            *(f"decoder/layers_0/linear{i}" for i in (1, 2)),
        ),
        ("encoder/patch_embed",),
    ),
    "swinv2_t": (
        SWIN,
        (
            "layers_1/downsample/reduction",
            *(f"layers_{stage}/blocks_0/{layer}" for stage in (0, 1) for layer in BLOCK),
        ),
        (
            "patch_embed",
            "head",
            *(f"layers_{stage}/blocks_0/attn/cpb_mlp_{i}" for stage in (0, 1) for i in (0, 2)),
        ),
    ),
    "swin_t": (
        SWIN,
        (
            "layers_1/downsample/reduction",
            *(f"layers_{stage}/blocks_0/{layer}" for stage in (0, 1) for layer in BLOCK),
        ),
        ("patch_embed", "head"),
    ),
}


def treated(name, **fields):
    model = models.create(name, **fields)
    side = 63 if "alexnet" in name else 32
    inputs = [np.zeros((1, side, side, 3), np.float32)]
    if name == "image_transformer_ti":
        inputs.append(np.ones((1, 2), np.int32))
    rngs = {key: jax.random.key(0) for key in ("params", "mask")}
    params = jax.eval_shape(model.init, rngs, *inputs)["params"]
    return parameter_rules.treatments(config.default(model=name), model, params)


@pytest.mark.parametrize("name", KERNELS)
def test_kernels_of_muon_and_of_adamw(name):
    """Every kernel is listed; all other parameters belong to AdamW."""
    fields, hidden, ends = KERNELS[name]
    found = treated(name, **fields)
    updated = {key for key, treatment in found.items() if treatment.matrices}
    assert updated == {f"{layer}/kernel" for layer in hidden}
    kernels = {key for key in found if key.endswith("/kernel")}
    assert kernels - updated == {f"{layer}/kernel" for layer in ends}


def test_every_group_of_a_convolution_is_a_matrix():
    """The two towers of AlexNet, and the groups of a ResNeXt, each orthogonal on its own."""
    fields = dict(channels=(4, 8, 8, 8, 8), fc_width=8, pool_size=1, num_classes=5)
    kernels = {k: t.matrices for k, t in treated("alexnet", **fields).items() if t.matrices}
    expected = {"features_3": 2, "features_6": 1, "features_8": 2, "features_10": 2}
    expected |= {"classifier_1": 1, "classifier_4": 1}
    assert kernels == {f"{layer}/kernel": n for layer, n in expected.items()}
    resnext = dict(stage_sizes=(1,), widths=(8,), stem_width=8, groups=2, width_per_group=32)
    found = treated("resnet50", **resnext)
    assert {k: t.matrices for k, t in found.items() if "layer1_0/conv" in k} == {
        f"layer1_0/conv{i}/kernel": n for i, n in ((1, 1), (2, 2), (3, 1))
    }
    gradient = np.random.default_rng(0).normal(size=(3, 3, 2, 8)).astype(np.float32)
    c = config.default(model="alexnet").optim
    tree = {"kernel": jnp.asarray(gradient)}
    transform = muon.scale_by_muon(c, {"kernel": parameter_rules.Treatment(matrices=2)})
    both = transform.update(tree, transform.init(tree), tree)[0]["kernel"]
    for i in range(2):
        half = gradient[..., 4 * i : 4 * i + 4].reshape(18, 4)
        own = muon.UPDATE_RMS * np.sqrt(18) * muon.orthogonalise((1 + c.momentum) * half)
        np.testing.assert_allclose(both[..., 4 * i : 4 * i + 4].reshape(18, 4), own, rtol=1e-4)


@pytest.mark.parametrize("shape", [(8, 8), (3, 4, 9), (20, 5)])
def test_singular_values_are_near_one(shape):
    x = np.random.default_rng(0).normal(size=shape)
    values = np.linalg.svd(muon.orthogonalise(jnp.asarray(x, jnp.float32)), compute_uv=False)
    assert values.min() > 0.5
    assert values.max() < 1.3


def newton_schulz(x, iterations):
    """`zeropower_via_newtonschulz5` of airbench94_muon.py in float64, for filters [out, …]."""
    shape = x.shape
    x = x.reshape(len(x), -1)
    x = x / (np.linalg.norm(x) + 1e-7)
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    for _ in range(iterations):
        a = x @ x.T
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return (x.T if tall else x).reshape(shape)


@pytest.mark.parametrize("outputs", [3, 40])
def test_airbench_muon(outputs):
    """Three updates as in the reference, which has filters [out, in, height, width]."""
    c = config.default(model="airbench94")
    c.optim.update(name="muon", momentum=0.6, muon_iterations=3, muon_scale="none")
    c.optim.update(muon_keep_norms=True, weight_decay=0.0, others="sgd")
    rng = np.random.default_rng(0)
    kernel, *gradients = rng.normal(size=(4, 3, 3, 2, outputs))
    found = {"conv/kernel": parameter_rules.Treatment(matrices=1)}
    optimiser = optimisers.make_optimiser(c, lambda step: 0.24 * (1 - step / 8), found, 8)
    params = {"conv": {"kernel": jnp.asarray(kernel, jnp.float32)}}
    state, update = optimiser.init(params), jax.jit(optimiser.update)
    w, buffer = kernel.transpose(3, 2, 0, 1), 0
    for step, gradient in enumerate(gradients):
        tree = {"conv": {"kernel": jnp.asarray(gradient, jnp.float32)}}
        updates, state = update(tree, state, params)
        params = jax.tree.map(jnp.add, params, updates)
        g = gradient.transpose(3, 2, 0, 1)
        buffer = 0.6 * buffer + g
        w = w * len(w) ** 0.5 / np.linalg.norm(w)
        w = w - 0.24 * (1 - step / 8) * newton_schulz(g + 0.6 * buffer, 3)
    got = np.asarray(params["conv"]["kernel"]).transpose(3, 2, 0, 1)
    np.testing.assert_allclose(got, w, rtol=1e-3, atol=1e-4)


def test_norms_of_each_matrix_of_a_fused_kernel():
    """Without an update each has the norm √outputs; other parameters stay."""
    found = {"qkv": parameter_rules.Treatment(matrices=3), "b": parameter_rules.Treatment()}
    rng = np.random.default_rng(0)
    params = {"qkv": rng.normal(size=(5, 12)), "b": rng.normal(size=4)}
    params = jax.tree.map(np.float32, params)
    zeros = jax.tree.map(np.zeros_like, params)
    updates, _ = muon.keep_norms(found).update(zeros, optax.EmptyState(), params)
    new = jax.tree.map(np.add, params, updates)
    norms = np.linalg.norm(new["qkv"].reshape(5, 3, 4), axis=(0, 2))
    np.testing.assert_allclose(norms, 2, rtol=1e-5)
    np.testing.assert_array_equal(new["b"], params["b"])
