"""Tests of readable networks and of gradients with respect to features."""

import jax
import jax.numpy as jnp
import numpy as np
from small_nets import SMALL_VIT, with_weights

from cv_jax import models
from cv_jax.inspect import network
from cv_jax.models.encoder import unstack_blocks


def test_gradient_of_the_image_is_that_of_jax(resnet, classes):
    model, variables, images = resnet

    def score(images):
        logits, _ = model.apply(variables, images, train=False)
        return logits[jnp.arange(2), classes].sum()

    _, found = network.feature_gradients(model, variables, images, classes, ("image", "stem"))
    np.testing.assert_allclose(found["image"], jax.grad(score)(images), atol=1e-6)


def test_gradient_of_a_feature_continues_the_network(resnet, classes):
    """The head is linear in `pre_logits`, so its kernel is the gradient; the mean over a map
    divides it by the number of places."""
    model, variables, images = resnet
    names = ("layer2_0", "pre_logits")
    features, found = network.feature_gradients(model, variables, images, classes, names)
    kernel = variables["params"]["head"]["kernel"]
    np.testing.assert_allclose(found["pre_logits"], kernel.T[classes], atol=1e-6)
    places = np.prod(features["layer2_0"].shape[1:3])
    expected = np.broadcast_to(kernel.T[classes][:, None, None] / places, found["layer2_0"].shape)
    np.testing.assert_allclose(found["layer2_0"], expected, atol=1e-6)


def test_features_that_are_one_variable_have_one_gradient(classes):
    """`fc2` and `pre_logits` of an MLP are the same array."""
    images = jax.random.normal(jax.random.key(0), (2, 4, 4, 1))
    model = models.create("mlp", widths=(6, 6), num_classes=5)
    variables = with_weights(model, images)
    _, found = network.feature_gradients(model, variables, images, classes, ("fc2", "pre_logits"))
    expected = variables["params"]["head"]["kernel"].T[classes]
    np.testing.assert_allclose(found["fc2"], expected, atol=1e-6)
    np.testing.assert_allclose(found["pre_logits"], expected, atol=1e-6)


def test_gradient_of_the_loss(resnet, classes):
    """The gradient of the mean cross-entropy with respect to the logits is (p − onehot) / B."""
    model, variables, images = resnet
    _, found = network.feature_gradients(
        model, variables, images, classes, ("pre_logits",), "cross_entropy"
    )
    logits, _ = model.apply(variables, images, train=False)
    error = (jax.nn.softmax(logits) - jax.nn.one_hot(classes, 5)) / 2
    expected = error @ variables["params"]["head"]["kernel"].T
    np.testing.assert_allclose(found["pre_logits"], expected, atol=1e-6)


def test_readable_network_computes_the_same(vit):
    """Scanned blocks, rematerialisation and hidden attention change no output."""
    model, variables, images = vit
    expected, features = model.apply(variables, images, train=False)
    scanned = models.create("vit_ti16", **SMALL_VIT, scan_layers=True, remat_policy="dots")
    params = dict(variables["params"])
    blocks = [params.pop(f"blocks_{i}") for i in range(2)]
    params["blocks"] = jax.tree.map(lambda *x: jnp.stack(x), *blocks)
    assert set(unstack_blocks(params)) == set(variables["params"])

    readable, unrolled = network.readable(scanned, {"params": params})
    logits, found = network.features(readable, unrolled, images)
    np.testing.assert_allclose(logits, expected, atol=1e-5)
    assert found["blocks_1/attention"].shape == (2, 2, 7, 7)
    np.testing.assert_allclose(found["blocks_1"], features["blocks_1"], atol=1e-5)


def test_gradients_reach_every_block_of_a_scanned_network(vit, classes):
    scanned = models.create("vit_ti16", **SMALL_VIT, scan_layers=True)
    images = vit[2]
    variables = with_weights(scanned, images)
    readable, unrolled = network.readable(scanned, variables)
    names = ("embed", "blocks_0", "blocks_1")
    _, found = network.feature_gradients(readable, unrolled, images, classes, names)
    assert all(float(jnp.abs(x).max()) > 0 for x in found.values())
