"""ViT and DeiT: tokens, pools, positions, resizing, outputs, mistakes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_variables import random_variables

from cv_jax import models
from cv_jax.models import vit
from cv_jax.models.positions import resize_patch_kernel, resize_positions

SMALL = dict(image_size=(16, 24), patch_size=8, width=16, depth=2, num_heads=2, num_classes=5)
IMAGE = np.random.default_rng(0).standard_normal((3, 16, 24, 3)).astype(np.float32)


def build(name="vit_ti16", **fields):
    model = models.create(name, **{**SMALL, **fields})
    return model, random_variables(model, IMAGE)


@pytest.mark.parametrize(
    ("fields", "prefix"),
    [
        (dict(pool="cls"), 1),
        (dict(pool="mean"), 0),
        (dict(pool="mean", class_token=True), 1),
        (dict(pool="map"), 0),
        (dict(pool="cls", registers=3), 4),
        (dict(distilled=True), 2),
        (dict(distilled=True, registers=2, pos_embed_prefix=False), 4),
    ],
)
def test_tokens_before_the_patches(fields, prefix):
    model, variables = build(**fields)
    _, features = jax.eval_shape(model.apply, variables, IMAGE)
    assert model.prefix_tokens() == prefix
    assert features["embed"].shape == (3, prefix + 6, 16)
    positions = variables["params"]["pos_embed"].shape[1]
    assert positions == 6 + (prefix if fields.get("pos_embed_prefix", True) else 0)


def test_patches_are_the_image_row_by_row():
    """A token before positions is the product of the patch's pixels and the kernel."""
    model, variables = build(pool="mean")
    params = variables["params"]
    _, features = model.apply(variables, IMAGE)
    kernel, bias = params["patch_embed"]["kernel"], params["patch_embed"]["bias"]
    patch = IMAGE[1, 8:16, 16:24]
    token = jnp.einsum("hwc,hwcd->d", patch, kernel) + bias + params["pos_embed"][0, 5]
    np.testing.assert_allclose(features["embed"][1, 5], token, atol=1e-4)


def test_pools():
    """Compute each pool from the last tokens."""
    for fields, pool in [
        (dict(pool="cls", registers=2), lambda x: x[:, 0]),
        (dict(pool="mean", registers=2, class_token=True), lambda x: x[:, 3:].mean(axis=1)),
        (dict(pool="max", class_token=True), lambda x: x[:, 1:].max(axis=1)),
        (dict(pool="mean_max"), lambda x: (x.mean(axis=1) + x.max(axis=1)) / 2),
    ]:
        model, variables = build(**fields)
        _, features = model.apply(variables, IMAGE)
        np.testing.assert_allclose(features["pre_logits"], pool(features["norm"]), atol=1e-5)


def test_fc_norm_normalises_after_pooling():
    model, variables = build(pool="mean", class_token=True, fc_norm=True)
    assert "norm" not in variables["params"]
    _, features = model.apply(variables, IMAGE)
    x = np.asarray(features["blocks_1"])[:, 1:].mean(axis=1)
    x = (x - x.mean(axis=1, keepdims=True)) / np.sqrt(x.var(axis=1, keepdims=True) + 1e-6)
    norm = variables["params"]["fc_norm"]
    np.testing.assert_allclose(features["pre_logits"], x * norm["scale"] + norm["bias"], atol=1e-4)


def test_attention_weights_on_request():
    model, variables = build(attention_weights=True)
    _, features = model.apply(variables, IMAGE)
    assert list(features) == [
        "embed",
        "blocks_0/attention",
        "blocks_0",
        "blocks_1/attention",
        "blocks_1",
        "norm",
        "pre_logits",
    ]
    weights = features["blocks_1/attention"]
    assert weights.shape == (3, 2, 7, 7)
    np.testing.assert_allclose(weights.sum(axis=-1), 1.0, atol=1e-5)
    plain = models.create("vit_ti16", **SMALL)
    assert not any("attention" in name for name in plain.apply(variables, IMAGE)[1])


def test_distillation_outputs():
    """Training returns the logits of both heads, evaluation their mean, as in DeiT."""
    model, variables = build("deit_ti16_distilled")
    evaluated, features = model.apply(variables, IMAGE, train=False)
    (labels, teacher), _ = model.apply(variables, IMAGE, train=True)
    params = variables["params"]
    for logits, token, head in ((labels, 0, "head"), (teacher, 1, "head_dist")):
        x = features["norm"][:, token]
        expected = x @ params[head]["kernel"] + params[head]["bias"]
        np.testing.assert_allclose(logits, expected, atol=1e-5)
    np.testing.assert_allclose(evaluated, (labels + teacher) / 2, atol=1e-6)
    np.testing.assert_allclose(features["pre_logits"], features["norm"][:, :2].mean(1), atol=1e-6)


def test_deit_is_vit():
    for size in ("ti", "s", "b"):
        assert models.create(f"deit_{size}16") == models.create(f"vit_{size}16")
        assert models.create(f"deit_{size}16_distilled").distilled


def test_resize_for_another_image():
    old, variables = build(registers=2)
    new = models.create("vit_ti16", **{**SMALL, "registers": 2, "image_size": (32, 40)})
    params = vit.resize(variables["params"], old, new)
    logits, _ = new.apply({"params": params}, jnp.ones((1, 32, 40, 3)))
    assert logits.shape == (1, 5)
    np.testing.assert_array_equal(
        params["pos_embed"],
        resize_positions(variables["params"]["pos_embed"], (2, 3), (4, 5), prefix=3),
    )


def test_resize_for_another_patch():
    old, variables = build(pos_embed="sincos")
    new = models.create("vit_ti16", **{**SMALL, "pos_embed": "sincos", "patch_size": 4})
    params = vit.resize(variables["params"], old, new)
    new.apply({"params": params}, IMAGE)
    np.testing.assert_array_equal(
        params["patch_embed"]["kernel"],
        resize_patch_kernel(variables["params"]["patch_embed"]["kernel"], (4, 4)),
    )


def test_resize_to_itself_is_exact():
    model, variables = build()
    for x, y in zip(
        jax.tree.leaves(vit.resize(variables["params"], model, model)),
        jax.tree.leaves(variables["params"]),
        strict=True,
    ):
        np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(patch_size=7), "patch_size 7 does not divide the image 16x24; nearest"),
        (dict(num_heads=3), "num_heads 3 does not divide width 16"),
        (dict(pool="median"), "unknown pool 'median'; allowed: cls, mean, max"),
        (dict(pos_embed="rope"), "unknown pos_embed 'rope'; allowed: learned, sincos"),
        (dict(distilled=True, pool="mean"), "distilled needs pool 'cls'"),
        (dict(distilled=True, head_norm=True), "head_norm needs a model with one head"),
        (dict(registers=-1), "registers must not be negative"),
        (dict(depth=0), "depth must be at least 1"),
        (dict(drop_path_rate=1.0), "drop_path_rate must lie in"),
        (dict(remat_policy="some"), "unknown remat_policy 'some'; allowed: none, full, dots"),
        (dict(act="elu"), "unknown activation 'elu'"),
        (dict(attention_implementation="flash"), "unknown attention implementation 'flash'"),
        (
            dict(attention_implementation="cudnn", attention_weights=True),
            "attention_weights needs implementation 'xla'",
        ),
    ],
)
def test_mistakes_are_one_line(fields, message):
    with pytest.raises(ValueError, match=message) as error:
        models.create("vit_ti16", **{**SMALL, **fields}).check()
    assert "\n" not in str(error.value)


def test_image_of_another_size_is_refused():
    model = models.create("vit_ti16", **SMALL)
    with pytest.raises(ValueError, match="image is 24x16, the model expects 16x24"):
        jax.eval_shape(model.init, jax.random.key(0), jnp.ones((1, 24, 16, 3)))


def test_head_norm_standardises_what_the_classifier_reads():
    model = models.create("vit_ti16", **SMALL, head_norm=True)
    image = np.random.default_rng(0).normal(size=(6, 16, 24, 3)).astype(np.float32)
    variables = model.init(jax.random.key(0), image)
    kernel = np.random.default_rng(1).normal(size=variables["params"]["head"]["kernel"].shape)
    variables["params"]["head"]["kernel"] = kernel.astype(np.float32)
    (logits, features), state = model.apply(variables, image, train=True, mutable=["batch_stats"])
    x = np.asarray(features["pre_logits"], np.float64)
    expected = (x - x.mean(axis=0)) / np.sqrt(x.var(axis=0) + 1e-6) @ kernel
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)
    statistics = state["batch_stats"]["head_norm"]
    np.testing.assert_allclose(statistics["mean"], 0.1 * x.mean(axis=0), rtol=1e-4, atol=1e-6)
    # Evaluation uses the running statistics; no other layer has any.
    variables = {**variables, **state}
    logits, features = model.apply(variables, image, train=False)
    x = np.asarray(features["pre_logits"], np.float64)
    expected = (x - statistics["mean"]) / np.sqrt(statistics["var"] + 1e-6) @ kernel
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)
    assert set(state["batch_stats"]) == {"head_norm"}
