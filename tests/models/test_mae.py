"""MAE: masking, unshuffling, patches and loss against loops; encoder inputs; `to_vit`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from quick import quick_jit
from random_variables import random_variables

from cv_jax import models
from cv_jax.models import mae, masking
from cv_jax.models.positions import resize_positions, sincos_2d

few = settings(deadline=None, max_examples=10)
SMALL = dict(
    image_size=(16, 24),
    patch_size=4,
    width=16,
    depth=2,
    num_heads=2,
    decoder_width=12,
    decoder_depth=1,
    decoder_num_heads=3,
)
RNG = np.random.default_rng(0)
IMAGE = RNG.standard_normal((2, 16, 24, 3)).astype(np.float32)
NOISE = RNG.random((2, 24)).astype(np.float32)


@few
@given(data=st.data(), length=st.integers(2, 12))
def test_unshuffle(data, length):
    keep = data.draw(st.integers(1, length - 1))
    rng = np.random.default_rng(length)
    noise = rng.random((2, length)).astype(np.float32)
    tokens, mask_token = rng.standard_normal((2, length, 3)), rng.standard_normal(3)
    kept, restore, mask = masking.select(noise, keep)
    visible = np.stack([tokens[b][np.asarray(kept[b])] for b in range(2)])
    full = mae.unshuffle(jnp.asarray(visible), jnp.asarray(mask_token), restore)
    for b in range(2):
        for i in range(length):
            expected = mask_token if mask[b, i] else tokens[b, i]
            np.testing.assert_allclose(full[b, i], expected, rtol=1e-6)


@few
@given(
    rows=st.integers(1, 3), columns=st.integers(1, 3), size=st.integers(1, 4), c=st.integers(1, 3)
)
def test_patchify(rows, columns, size, c):
    image = np.arange(2 * rows * size * columns * size * c, dtype=np.float32)
    image = image.reshape(2, rows * size, columns * size, c)
    patches = mae.patchify(image, size)
    for i in range(rows):
        for j in range(columns):
            patch = image[:, i * size : (i + 1) * size, j * size : (j + 1) * size]
            np.testing.assert_array_equal(patches[:, i * columns + j], patch.reshape(2, -1))
    np.testing.assert_array_equal(mae.unpatchify(patches, size, (rows, columns)), image)


@pytest.mark.parametrize("normalize", [False, True])
def test_reconstruction_loss(normalize):
    rng = np.random.default_rng(1)
    prediction = rng.standard_normal((2, 24, 48)).astype(np.float32)
    mask = (rng.permuted(np.tile(np.arange(24), (2, 1)), axis=1) < 18).astype(np.float32)
    loss = mae.reconstruction_loss(IMAGE, prediction, mask, 4, normalize)
    target = np.asarray(mae.patchify(IMAGE, 4), np.float64)
    for b in range(2):
        errors = []
        for i in range(24):
            x = target[b, i]
            if normalize:
                variance = sum((v - x.mean()) ** 2 for v in x) / (len(x) - 1)
                x = (x - x.mean()) / np.sqrt(variance + 1e-6)
            if mask[b, i]:
                errors.append(np.mean((prediction[b, i] - x) ** 2))
        assert float(loss[b]) == pytest.approx(np.mean(errors), rel=1e-5)


def build(**fields):
    return models.create("mae_vit_b16", **{**SMALL, **fields})


@pytest.fixture(scope="module")
def variables():
    return random_variables(build(), IMAGE, NOISE)


@pytest.fixture(scope="module")
def run(variables):
    model = build()
    return quick_jit(lambda image, noise: model.apply(variables, image, noise))


def test_outputs(run):
    prediction, features = run(IMAGE, NOISE)
    assert prediction.shape == (2, 24, 48)
    assert prediction.dtype == jnp.float32
    assert features["embed"].shape == (2, 1 + 6, 16)
    assert features["norm"].shape == (2, 1 + 6, 16)
    assert features["decoder_blocks_0"].shape == (2, 1 + 24, 12)
    assert features["pre_logits"].shape == (2, 24, 12)
    np.testing.assert_array_equal(features["mask"].sum(axis=1), 18)


def test_the_encoder_reads_kept_patches_only(run):
    """The output depends on the pixels of kept patches, not on the pixels of removed patches."""
    prediction, features = run(IMAGE, NOISE)
    mask = np.asarray(features["mask"])
    pixels = np.repeat(mask[:, :, None], 48, axis=2)
    pixels = np.asarray(mae.unpatchify(jnp.asarray(pixels), 4, (4, 6)))
    noisy = np.where(pixels > 0, 7.0, IMAGE).astype(np.float32)
    np.testing.assert_array_equal(run(noisy, NOISE)[0], prediction)
    moved = np.where(pixels > 0, IMAGE, IMAGE + 1).astype(np.float32)
    assert not np.allclose(run(moved, NOISE)[0], prediction, atol=1e-3)


def test_noise_from_the_stream(variables):
    model = build()
    run = quick_jit(lambda key: model.apply(variables, IMAGE, rngs={"mask": key})[1]["mask"])
    first, second = run(jax.random.key(0)), run(jax.random.key(1))
    assert not np.array_equal(first, second)
    assert not np.array_equal(first[0], first[1])
    np.testing.assert_array_equal(first, run(jax.random.key(0)))


@pytest.mark.parametrize("model", ["mae_vit_b16", "mae_vit_l16", "mae_vit_h14"])
def test_kept_patches_of_the_published_sizes(model):
    """49 of 196 at patch 16, 64 of 256 at patch 14."""
    grid, keep = models.create(model).check()
    assert (grid[0] * grid[1], keep) == ((256, 64) if model.endswith("h14") else (196, 49))


def test_initial_values():
    """One Glorot bound for the fused queries, keys and values; the patch kernel as a matrix."""
    model = build(width=48, patch_size=8, num_heads=3)
    params = quick_jit(model.init)(jax.random.key(0), IMAGE, NOISE[:, :6])["params"]
    for kernel, fans in (
        (params["blocks_0"]["attn"]["qkv"]["kernel"], 48 + 144),
        (params["patch_embed"]["kernel"], 8 * 8 * 3 + 48),
        (params["decoder_pred"]["kernel"], 12 + 8 * 8 * 3),
    ):
        bound = np.sqrt(6 / fans)
        assert 0.95 * bound < np.abs(kernel).max() <= bound


@pytest.mark.parametrize("scan", [False, True], ids=["unrolled", "scanned"])
@pytest.mark.parametrize("fc_norm", [False, True])
def test_to_vit(fc_norm, scan):
    pretrained = build(scan_layers=scan)
    params = random_variables(pretrained, IMAGE, NOISE)["params"]
    vit = models.create(
        "vit_b16",
        **{k: SMALL[k] for k in ("image_size", "patch_size", "width", "depth", "num_heads")},
        pool="mean",
        class_token=True,
        fc_norm=fc_norm,
        scan_layers=scan,
        num_classes=5,
    )
    fresh = random_variables(vit, IMAGE, seed=1)["params"]
    result = mae.to_vit(params, pretrained, fresh, vit)
    assert jax.tree.structure(result) == jax.tree.structure(fresh)
    np.testing.assert_array_equal(result["pos_embed"][0, 1:], sincos_2d(4, 6, 16))
    np.testing.assert_array_equal(result["pos_embed"][0, 0], 0)
    np.testing.assert_array_equal(result["head"]["kernel"], fresh["head"]["kernel"])
    if fc_norm:
        np.testing.assert_array_equal(result["fc_norm"]["bias"], fresh["fc_norm"]["bias"])
        return
    # With all patches but one kept, in order, encoder and ViT have the same first tokens.
    last = np.tile(np.arange(24, dtype=np.float32), (2, 1))
    almost = build(scan_layers=scan, mask_ratio=1 / 24)
    _, features = quick_jit(almost.apply)({"params": params}, IMAGE, last)
    _, expected = quick_jit(vit.apply)({"params": result}, IMAGE)
    np.testing.assert_allclose(
        features["embed"], expected["embed"][:, : features["embed"].shape[1]], atol=1e-5
    )
    np.testing.assert_array_equal(result["norm"]["scale"], params["norm"]["scale"])


def test_to_vit_of_another_image_size():
    params = random_variables(build(), IMAGE, NOISE)["params"]
    fields = {k: SMALL[k] for k in ("patch_size", "width", "depth", "num_heads")}
    vit = models.create("vit_b16", image_size=32, num_classes=5, **fields)
    fresh = random_variables(vit, np.zeros((1, 32, 32, 3)))["params"]
    positions = mae.to_vit(params, build(), fresh, vit)["pos_embed"]
    table = np.concatenate([np.zeros((1, 16)), sincos_2d(4, 6, 16)])[None].astype(np.float32)
    np.testing.assert_array_equal(
        positions, resize_positions(table, (4, 6), (8, 8), method="bicubic")
    )


def test_to_vit_of_another_width_is_refused():
    params = random_variables(build(), IMAGE, NOISE)["params"]
    vit = models.create(
        "vit_b16", image_size=(16, 24), patch_size=4, width=32, depth=2, num_heads=2
    )
    fresh = random_variables(vit, IMAGE)["params"]
    with pytest.raises(ValueError, match="does not fit the ViT"):
        mae.to_vit(params, build(), fresh, vit)


@pytest.mark.parametrize("ratio", [0.0, 0.99, 1.0])
def test_mask_ratio_that_keeps_all_or_nothing(ratio):
    with pytest.raises(ValueError, match="mask_ratio .* at least one"):
        build(mask_ratio=ratio).check()


@pytest.mark.parametrize("scan", [False, True], ids=["unrolled", "scanned"])
def test_the_encoder_alone_reads_all_patches(scan):
    """Its parameters are part of the whole model's; with one patch removed, tokens are equal."""
    pretrained = build(scan_layers=scan)
    variables = random_variables(pretrained, IMAGE, NOISE)
    alone = mae.encoder(pretrained)
    shapes = jax.eval_shape(alone.init, jax.random.key(0), IMAGE)["params"]
    found = jax.tree.map(np.shape, {name: variables["params"][name] for name in shapes})
    assert found == jax.tree.map(lambda leaf: leaf.shape, shapes)
    _, features = quick_jit(alone.apply)(variables, IMAGE)
    assert features["norm"].shape == (2, 1 + 24, 16)
    np.testing.assert_array_equal(features["pre_logits"], features["norm"][:, 0])
    order = np.tile(np.arange(24, dtype=np.float32), (2, 1))
    almost = build(scan_layers=scan, mask_ratio=1 / 24)
    _, expected = quick_jit(almost.apply)(variables, IMAGE, order)
    np.testing.assert_allclose(features["embed"][:, :24], expected["embed"], atol=1e-5)


def test_a_classifier_has_the_features_of_the_encoder_alone():
    """So a probe of the pre-training and one of a run with `init_from` read the same features."""
    pretrained = build(norm_epsilon=1e-2)
    variables = random_variables(pretrained, IMAGE, NOISE)
    fields = {k: SMALL[k] for k in ("image_size", "patch_size", "width", "depth", "num_heads")}
    vit = models.create("vit_b16", **fields, norm_epsilon=1e-2, num_classes=5)
    fresh = random_variables(vit, IMAGE, seed=1)["params"]
    params = mae.to_vit(variables["params"], pretrained, fresh, vit)
    _, found = quick_jit(vit.apply)({"params": params}, IMAGE)
    _, expected = quick_jit(mae.encoder(pretrained).apply)(variables, IMAGE)
    assert found.keys() == expected.keys()
    for name, feature in expected.items():
        np.testing.assert_allclose(found[name], feature, atol=1e-5)
