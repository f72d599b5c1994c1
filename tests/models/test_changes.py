"""Fields that take a part of a published network away, for comparisons."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from quick import quick_jit

from cv_jax import models

KEY = jax.random.key(0)


def image(side, channels=3, batch=2):
    return jax.random.normal(jax.random.key(1), (batch, side, side, channels))


def features(model, variables, x):
    return quick_jit(lambda v, x: model.apply(v, x, train=False))(variables, x)[1]


ALEXNET = dict(num_classes=10, channels=(8, 8, 8, 8, 8), fc_width=16, kernel_init="he")


def test_alexnet_with_tanh_and_without_overlap():
    x = image(64)
    model = models.create("alexnet", act="tanh", overlap=False, lrn=False, **ALEXNET)
    found = features(model, quick_jit(model.init)(KEY, x), x)
    for name in ("conv1", "conv5", "fc6"):
        assert (np.abs(found[name]) <= 1).all()
        assert (np.asarray(found[name]) < 0).any()
    maps = np.asarray(found["conv1"])[:, :14, :14]
    windows = maps.reshape(2, 7, 2, 7, 2, 8)
    np.testing.assert_array_equal(found["pool1"], windows.max(axis=(2, 4)))


def test_vgg_with_other_filters():
    x = image(8)
    fields = dict(depths=(1, 2), widths=(4, 6), fc_width=8, pool_size=1, num_classes=10)
    model = models.create("vgg11", kernel_sizes=(3, 7), **fields)
    variables = quick_jit(model.init)(KEY, x)
    kernels = {k: v["kernel"].shape for k, v in variables["params"].items() if "features" in k}
    assert [shape[:2] for shape in kernels.values()] == [(3, 3), (7, 7), (7, 7)]
    assert features(model, variables, x)["conv2_2"].shape == (2, 4, 4, 6)
    for sizes, message in (((4,), "must be odd"), ((3, 3, 3), "one for each of depths")):
        with pytest.raises(ValueError, match=message):
            models.create("vgg11", kernel_sizes=sizes, **fields).check()


def test_a_plain_net_without_normalisation_is_convolutions_and_relu():
    x = image(8)
    fields = dict(stage_sizes=(1,), widths=(4,), stem_width=4, norm="none", num_classes=10)
    model = models.create("plain8_cifar", **fields)
    variables = quick_jit(model.init)(KEY, x)
    assert set(variables) == {"params"}
    params = jax.tree.map(lambda leaf: leaf + 0.1, variables["params"])

    def layer(x, own):
        numbers = ("NHWC", "HWIO", "NHWC")
        y = jax.lax.conv_general_dilated(
            x, own["kernel"], (1, 1), "SAME", dimension_numbers=numbers
        )
        return jnp.maximum(y + own["bias"], 0)

    y = layer(x, params["conv1"])
    y = layer(layer(y, params["layer1_0"]["conv1"]), params["layer1_0"]["conv2"])
    got = features(model, {"params": params}, x)["layer1_0"]
    np.testing.assert_allclose(got, y, rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="norm 'none' does not have"):
        models.create("resnet8_cifar", norm="none", zero_init_residual=True).check()


VIT = dict(image_size=8, patch_size=4, width=16, depth=2, num_heads=2, num_classes=10)


def with_head(variables):
    """The head is initially zero."""
    head = jax.tree.map(lambda x: x + jax.random.normal(KEY, x.shape), variables["params"]["head"])
    return {"params": {**variables["params"], "head": head}}


def test_without_positions_patches_are_a_set():
    x = image(8)
    swapped = jnp.concatenate([x[:, 4:], x[:, :4]], axis=1)
    for positions, equal in (("none", True), ("learned", False)):
        model = models.create("vit_s16", pos_embed=positions, **VIT)
        variables = with_head(quick_jit(model.init)(KEY, x))
        run = quick_jit(lambda v, x, model=model: model.apply(v, x, train=False)[0])
        close = np.allclose(run(variables, x), run(variables, swapped), rtol=1e-4, atol=1e-4)
        assert close is equal
    names = {name for name in quick_jit(model.init)(KEY, x)["params"] if "pos" in name}
    assert names == {"pos_embed"}


def test_without_the_scale_scores_are_plain_products():
    """Queries divided by √d beforehand give the output with the division."""
    x = image(8)
    plain, scaled = (models.create("vit_s16", attention_scale=s, **VIT) for s in ("none", "sqrt"))
    variables = with_head(quick_jit(plain.init)(KEY, x))
    divided = jax.tree.map(lambda leaf: leaf, variables)
    for i in range(2):
        own = divided["params"][f"blocks_{i}"]["attn"]["qkv"]
        for name in own:  # the first third of the columns are the queries
            factor = jnp.where(jnp.arange(48) < 16, 1 / np.sqrt(8), 1.0)
            own[name] = own[name] * factor
    run = {m: quick_jit(lambda v, x, m=m: m.apply(v, x, train=False)[0]) for m in (plain, scaled)}
    np.testing.assert_allclose(
        run[plain](divided, x), run[scaled](variables, x), rtol=1e-4, atol=1e-5
    )
    assert not np.allclose(run[plain](variables, x), run[scaled](variables, x), atol=1e-3)
    with pytest.raises(ValueError, match="attention_scale"):
        models.create("vit_s16", attention_scale="root", **VIT).check()


def test_fixed_windows_never_meet():
    """A change in one window changes no other window in the first stage; shifted ones do."""
    fields = dict(patch_size=2, width=8, depths=(2,), num_heads=(2,), window_size=4, num_classes=10)
    x = image(16, batch=1)
    changed = x.at[:, :8, :8].add(1.0)  # the tokens of the first window
    for shift in (False, True):
        model = models.create("swin_t", shift=shift, **fields)
        variables = quick_jit(model.init)(KEY, x)
        name = "layers_0/blocks_1"
        maps = [np.asarray(features(model, variables, y)[name])[0] for y in (x, changed)]
        moved = np.abs(maps[0] - maps[1]).max(axis=-1) > 1e-6
        assert moved[:4, :4].all()
        assert moved[4:].any() == moved[:, 4:].any() == shift
        tokens = model.window_tokens((16, 16))["layers_0/blocks_1/attention"]
        first = sorted(row * 8 + column for row in range(4) for column in range(4))
        assert (sorted(tokens[0].tolist()) == first) is not shift
