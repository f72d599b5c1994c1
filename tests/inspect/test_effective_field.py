"""Tests of effective receptive fields, against the analytic form for linear stacks."""

from collections import OrderedDict

import flax.linen as nn
import jax
import numpy as np
import pytest

from cv_jax.inspect import effective_field


class LinearStack(nn.Module):
    """Convolutions without activations."""

    depth: int
    size: int = 3

    @nn.compact
    def __call__(self, image, *, train=False):
        features, x = OrderedDict(), image
        for i in range(self.depth):
            x = nn.Conv(1, (self.size, self.size), padding="SAME", use_bias=False, name=f"conv{i}")(
                x
            )
            features[f"conv{i}"] = x
        return x.mean(axis=(1, 2)), features


def constant_stack(depth, size, side):
    model = LinearStack(depth, size)
    images = jax.random.normal(jax.random.key(0), (2, side, side, 1))
    variables = jax.tree.map(np.ones_like, model.init(jax.random.key(0), images))
    return model, variables, images


@pytest.mark.parametrize(("depth", "size"), [(1, 3), (4, 3), (3, 5)])
def test_linear_stack_has_a_binomial_field(depth, size):
    """With constant kernels the field is the depth-fold convolution of a constant square: for size
    2 Pascal's triangle, in general its multinomial form, close to a Gaussian."""
    model, variables, images = constant_stack(depth, size, 31)
    found = effective_field.effective_fields(model, variables, images)
    profile = np.ones(1)
    for i in range(depth):
        profile = np.convolve(profile, np.ones(size) / size)
        field = found[i].field
        reach = len(profile) // 2
        middle = field[15 - reach : 16 + reach, 15 - reach : 16 + reach]
        np.testing.assert_allclose(middle, np.outer(profile, profile), atol=1e-7)
        np.testing.assert_allclose(middle.sum(), 1, rtol=1e-6)
        # The variance of a sum of independent uniform steps is the sum of their variances.
        variance = (i + 1) * (size**2 - 1) / 12
        np.testing.assert_allclose(found[i].size, np.sqrt(12 * variance + 1), rtol=1e-5)
        np.testing.assert_allclose(found[i].gaussian, 4 * np.sqrt(variance + 1 / 12), rtol=1e-5)
        np.testing.assert_allclose(found[i].centre, [15, 15], atol=1e-4)


def test_one_layer_has_the_side_of_its_kernel():
    model, variables, images = constant_stack(1, 5, 15)
    (found,) = effective_field.effective_fields(model, variables, images)
    np.testing.assert_allclose(found.size, [5, 5], rtol=1e-6)


def test_field_of_zeros():
    found = effective_field.summarise("x", np.zeros((4, 4)))
    assert found.size == (0, 0)
    assert np.isnan(found.centre).all()


def test_tokens_and_maps_have_fields(vit, swin):
    """The first tokens read one patch; later ones the whole image."""
    found = {x.name: x for x in effective_field.effective_fields(*vit)}
    assert list(found) == ["embed", "blocks_0", "blocks_1", "norm"]
    patch = found["embed"].field
    np.testing.assert_allclose(patch[8:16, 8:16].sum(), 1, rtol=1e-6)
    assert (found["blocks_0"].field > 0).mean() > 0.9
    assert effective_field.effective_fields(*swin)[-1].name == "norm"


def test_unknown_feature(resnet):
    with pytest.raises(ValueError, match="no places in the image: pre_logits"):
        effective_field.effective_fields(*resnet, names=("pre_logits",))
