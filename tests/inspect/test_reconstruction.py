"""Reconstructions and their errors against loops over patches and pixels in float64."""

import jax
import numpy as np
import pytest
from small_nets import with_weights

from cv_jax import models
from cv_jax.inspect.reconstruction import reconstruct

SIZE, GRID = 4, (2, 3)
FIELDS = dict(
    image_size=(8, 12),
    patch_size=SIZE,
    width=12,
    depth=1,
    num_heads=2,
    decoder_width=8,
    decoder_depth=1,
    decoder_num_heads=2,
    mask_ratio=0.5,
)


@pytest.mark.parametrize("norm_pix_loss", [True, False])
def test_reconstruction(norm_pix_loss):
    rng = np.random.default_rng(0)
    images = rng.standard_normal((2, 8, 12, 3)).astype(np.float32)
    noise = rng.random((2, 6)).astype(np.float32)
    model = models.create("mae_vit_b16", **FIELDS, norm_pix_loss=norm_pix_loss)
    variables = with_weights(model, images, noise)
    prediction, features = jax.jit(model.apply)(variables, images, noise)
    found = reconstruct(model, variables, images, noise)
    for b, image in enumerate(images.astype(np.float64)):
        losses, errors, of_visible, of_patch = [], [], [], []
        kept = [i for i in range(6) if not features["mask"][b, i]]

        def place(i):
            row, column = divmod(i, GRID[1])
            return (slice(SIZE * row, SIZE * (row + 1)), slice(SIZE * column, SIZE * (column + 1)))

        visible = np.concatenate([image[place(i)].reshape(-1, 3) for i in kept]).mean(axis=0)
        for i in range(6):
            patch, drawn = image[place(i)], np.asarray(found.image[b])[place(i)]
            removed = i not in kept
            assert (np.asarray(found.removed[b])[place(i)] == removed).all()
            if not removed:
                np.testing.assert_array_equal(drawn, images[b][place(i)])
                continue
            output = np.asarray(prediction[b, i], np.float64).reshape(SIZE, SIZE, 3)
            mean, deviation = 0.0, 1.0
            if norm_pix_loss:
                mean, deviation = patch.mean(), np.sqrt(patch.var(ddof=1) + 1e-6)
            np.testing.assert_allclose(drawn, output * deviation + mean, atol=1e-5)
            losses.append(np.mean((output - (patch - mean) / deviation) ** 2))
            errors.append(np.mean((output * deviation + mean - patch) ** 2))
            of_visible.append(np.mean((visible - patch) ** 2))
            of_patch.append(np.mean((patch.mean() - patch) ** 2))
        assert found.loss[b] == pytest.approx(np.mean(losses), rel=1e-4)
        assert found.error[b] == pytest.approx(np.mean(errors), rel=1e-4)
        assert found.visible_mean[b] == pytest.approx(np.mean(of_visible), rel=1e-4)
        assert found.patch_mean[b] == pytest.approx(np.mean(of_patch), rel=1e-4)
