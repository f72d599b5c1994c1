"""Tests of first-layer filters, their spectra, patch components and position embeddings."""

import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from small_nets import with_weights

from cv_jax import models
from cv_jax.inspect import filters, places

sys.path.append(str(Path(__file__).parents[1] / "models"))
from small_models import SMALL  # noqa: E402

IMAGE_MODELS = [k for k, s in SMALL.items() if s.name != "transformer_base"]


@pytest.mark.parametrize("key", IMAGE_MODELS)
def test_the_first_layer_is_found_in_every_model(key):
    """Changing the found kernel, and no other parameter with an image axis, changes the product."""
    small = SMALL[key]
    model = models.create(small.name, **small.fields)
    inputs = small.inputs(1) if small.inputs else (np.zeros((1, *small.image), np.float32),)
    if inputs[0].ndim != 4:
        pytest.skip("takes tokens")
    variables = with_weights(model, *inputs)
    (found,) = filters.first_layers(model, variables, *inputs)
    channels = inputs[0].shape[-1]
    assert found.kernel.shape[-1] == channels
    first = {
        "/".join(path): np.asarray(x)
        for path, x in jax.tree_util.tree_flatten_with_path(variables["params"])[0]
        for path in [[p.key for p in path]]
    }
    kernel = first[found.name]
    np.testing.assert_array_equal(
        found.kernel, np.moveaxis(kernel.reshape(*found.kernel.shape[1:], -1), -1, 0)
    )
    assert found.groups == (2 if key == "alexnet" else 1)


def test_spectrum_and_frequency_of_known_filters():
    """A constant, an alternating filter, and a wave of a quarter cycle per pixel."""
    constant = np.ones((8, 8))
    alternating = np.tile([1.0, -1.0], (8, 4))
    wave = np.cos(2 * np.pi * np.arange(8) / 4)[:, None] * np.ones(8)
    kernel = np.stack([constant, alternating, wave])[..., None]
    np.testing.assert_allclose(filters.mean_frequency(kernel), [0, 0.5, 0.25], atol=1e-9)
    spectra = filters.spectra(kernel)
    assert np.unravel_index(spectra[0].argmax(), (8, 8)) == (4, 4)
    assert np.unravel_index(spectra[1].argmax(), (8, 8)) == (4, 0)


def test_principal_components_of_two_directions():
    """Filters in a plane: two components with the variances of the coordinates."""
    rng = np.random.default_rng(0)
    axes = np.linalg.qr(rng.standard_normal((12, 2)))[0].T.reshape(2, 2, 2, 3)
    weights = rng.standard_normal((50, 2)) * [3, 1]
    weights = np.linalg.qr(weights - weights.mean(0))[0] * [3, 1]
    kernel = np.einsum("nk,khwc->nhwc", weights, axes)
    components, share = filters.principal_components(kernel, 3)
    np.testing.assert_allclose(share, [0.9, 0.1, 0], atol=1e-9)
    for found, axis in zip(components, axes, strict=False):
        np.testing.assert_allclose(np.abs((found * axis).sum()), 1, atol=1e-9)
    assert (components.reshape(3, -1).max(1) >= np.abs(components).reshape(3, -1).max(1)).all()


@pytest.mark.parametrize("prefix", [True, False])
def test_position_similarity(prefix):
    """Cosines of the patches' embeddings; those of the class token are left out."""
    grid = places.Grid(np.arange(6).reshape(2, 3) + 1, (8, 8), 7)
    table = np.random.default_rng(0).standard_normal((1, 7, 5))
    found = filters.position_similarity(table if prefix else table[:, 1:], grid)
    unit = table[0, 1:] / np.linalg.norm(table[0, 1:], axis=1, keepdims=True)
    np.testing.assert_allclose(found.reshape(6, 6), unit @ unit.T)


def test_bias_table_is_a_map_of_offsets(swin):
    """The entry of a pair of tokens is at its offset, the middle of the map is the token itself."""
    model, variables, images = swin
    found = filters.bias_tables(model, variables, images.shape[1:3])
    name = "layers_0/blocks_0/attn/relative_position_bias_table"
    table = np.asarray(
        variables["params"]["layers_0"]["blocks_0"]["attn"]["relative_position_bias_table"]
    )
    assert found[name].shape == (2, 3, 3)
    # From key (1, 0) to query (0, 1) of a 2×2 window: rows −1, columns +1.
    offset = (-1 + 1) * 3 + (1 + 1)
    np.testing.assert_array_equal(found[name][:, 1 - 1, 1 + 1], table[offset])
    assert len(found) == 4
