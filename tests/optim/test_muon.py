"""Muon: the parameters that it updates, and the orthogonalisation."""

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cv_jax import models
from cv_jax.optim import muon

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
    "swin_t": (
        SWIN,
        (
            "layers_1/downsample/reduction",
            *(f"layers_{stage}/blocks_0/{layer}" for stage in (0, 1) for layer in BLOCK),
        ),
        ("patch_embed", "head"),
    ),
}


@pytest.mark.parametrize("name", KERNELS)
def test_kernels_of_muon_and_of_adamw(name):
    """Every kernel is listed; all other parameters belong to AdamW."""
    fields, hidden, ends = KERNELS[name]
    model, end_layers = models.create(name, **fields), models.MODELS[name].end_layers
    side = 63 if "alexnet" in name else 32
    image = np.zeros((1, side, side, 3), np.float32)
    rngs = {key: jax.random.key(0) for key in ("params", "mask")}
    params = jax.eval_shape(model.init, rngs, image)["params"]
    shapes = {k: x.shape for k, x in flax.traverse_util.flatten_dict(params, sep="/").items()}
    updated = {key for key, shape in shapes.items() if muon.is_matrix(key, shape, end_layers)}
    assert updated == {f"{layer}/kernel" for layer in hidden}
    kernels = {key for key in shapes if key.endswith("/kernel")}
    assert kernels - updated == {f"{layer}/kernel" for layer in ends}


@pytest.mark.parametrize("shape", [(8, 8), (3, 4, 9), (20, 5)])
def test_singular_values_are_near_one(shape):
    x = np.random.default_rng(0).normal(size=shape)
    values = np.linalg.svd(muon.orthogonalise(jnp.asarray(x, jnp.float32)), compute_uv=False)
    assert values.min() > 0.5
    assert values.max() < 1.3
