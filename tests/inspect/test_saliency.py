"""Tests of saliency methods against exact relations and NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_nets import with_weights

from cv_jax import models
from cv_jax.inspect import network, occlusion, places, saliency


@pytest.fixture(scope="module")
def linear():
    """Return (model, variables, images) of a linear classifier of 4×4 images."""
    images = jax.random.normal(jax.random.key(1), (2, 4, 4, 1))
    model = models.create("linear", num_classes=5)
    return model, with_weights(model, images), images


def templates(variables, classes):
    """Return the weights of each class as an image [B, 4, 4]."""
    return np.asarray(variables["params"]["head"]["kernel"]).T[classes].reshape(-1, 4, 4)


def test_gradient_methods_of_a_linear_classifier(linear, classes):
    """The gradient is the template; all methods follow from it."""
    model, variables, images = linear
    weights = templates(variables, classes)
    found = saliency.gradient(model, variables, images, classes)
    np.testing.assert_allclose(found, np.abs(weights), rtol=1e-5)
    product = weights * np.asarray(images)[..., 0]
    found = saliency.gradient_times_input(model, variables, images, classes)
    np.testing.assert_allclose(found, product, rtol=1e-4, atol=1e-6)
    found = saliency.integrated_gradients(model, variables, images, classes, steps=3)
    np.testing.assert_allclose(found, product, rtol=1e-4, atol=1e-6)
    found = saliency.smoothgrad(model, variables, images, classes, samples=2)
    np.testing.assert_allclose(found, np.abs(weights), rtol=1e-5)


@pytest.mark.parametrize("net", ["resnet", "vit"])
def test_integrated_gradients_are_complete(net, classes, request):
    """The map sums to the difference of the logits of image and baseline within 1 %."""
    model, variables, images = request.getfixturevalue(net)
    baseline = 0.3 * jnp.ones_like(images)
    found = saliency.integrated_gradients(
        model, variables, images, classes, baseline=baseline, steps=100
    )
    logits = [model.apply(variables, x, train=False)[0] for x in (images, baseline)]
    difference = (logits[0] - logits[1])[jnp.arange(2), classes]
    np.testing.assert_allclose(found.sum((1, 2)), difference, rtol=0.01)


def test_grad_cam_equals_numpy(resnet, classes):
    """The head's weights are the mean gradient of the last map up to the number of places."""
    model, variables, images = resnet
    _, features = model.apply(variables, images, train=False)
    last = np.asarray(features["layer2_0"])
    weights = np.asarray(variables["params"]["head"]["kernel"]).T[classes] / np.prod(
        last.shape[1:3]
    )
    expected = np.maximum(np.einsum("bhwc,bc->bhw", last, weights), 0)
    expected = jax.image.resize(expected, images.shape[:3], "linear")
    found = saliency.grad_cam(model, variables, images, classes)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    same = saliency.grad_cam(model, variables, images, classes, feature="layer2_0")
    np.testing.assert_array_equal(found, same)


def test_grad_cam_of_a_vit_puts_tokens_into_the_image(vit, classes):
    """By default the last tokens that the class token still reads; NumPy on their gradients."""
    model, variables, images = vit
    found = saliency.grad_cam(model, variables, images, classes)
    values, slopes = network.feature_gradients(model, variables, images, classes, ("blocks_0",))
    value, slope = (np.asarray(x["blocks_0"])[:, 1:].reshape(2, 2, 3, 12) for x in (values, slopes))
    cam = np.maximum((value * slope.mean((1, 2), keepdims=True)).sum(-1), 0)
    np.testing.assert_allclose(found, jax.image.resize(cam, (2, 16, 24), "linear"), atol=1e-5)


def test_last_map(vit, swin, resnet):
    for (model, variables, images), expected in ((vit, "blocks_0"), (swin, "norm")):
        model, variables = network.readable(model, variables)
        grid = places.token_grid(model, (images[:1],), images.shape[1:3])
        assert saliency.last_map(model, variables, images, grid) == expected
    assert saliency.last_map(*resnet, None) == "layer2_0"


def test_no_map(linear, classes):
    with pytest.raises(saliency.NoPlaces, match="no feature with places"):
        saliency.grad_cam(*linear, classes)
    with pytest.raises(saliency.NoPlaces, match="no attention"):
        saliency.METHODS["rollout"](*linear, classes)


def test_grad_cam_of_an_unknown_feature(resnet, classes):
    with pytest.raises(saliency.NoPlaces, match="'layer9'.*layer2_0"):
        saliency.grad_cam(*resnet, classes, feature="layer9")


def test_occlusion_equals_a_loop(linear, classes):
    """Squares of 2×2 pixels at steps of 2: every pixel is hidden by one square."""
    model, variables, images = linear
    found = occlusion.occlusion(model, variables, images, classes, window=2, stride=2)
    kernel = np.asarray(variables["params"]["head"]["kernel"], np.float64)
    bias = np.asarray(variables["params"]["head"]["bias"], np.float64)

    def probability(image, label):
        logits = image.reshape(-1) @ kernel + bias
        return np.exp(logits[label]) / np.exp(logits).sum()

    for b, label in enumerate(classes):
        image = np.asarray(images[b], np.float64)
        for row in (0, 2):
            for column in (0, 2):
                hidden = image.copy()
                hidden[row : row + 2, column : column + 2] = 0
                fall = probability(image, label) - probability(hidden, label)
                np.testing.assert_allclose(
                    found[b, row : row + 2, column : column + 2], fall, atol=1e-6
                )


def test_occlusion_covers_the_edges(linear, classes):
    """A window of 3 on 4 pixels: overlapping squares, every pixel hidden at least once."""
    found = occlusion.occlusion(*linear, classes, window=3, stride=2)
    assert np.isfinite(found).all()


def test_rise_masks():
    """The mean of a mask is the probability of a visible cell; masks are smooth and in 0…1."""
    masks = occlusion.rise_masks(400, (20, 30), cells=5, visible=0.4, seed=0)
    assert masks.shape == (400, 20, 30)
    assert masks.min() >= 0
    assert masks.max() <= 1
    np.testing.assert_allclose(masks.mean(), 0.4, atol=0.02)
    assert np.abs(np.diff(masks, axis=2)).max() <= 1 / (30 // 5) + 1e-6


def test_rise_finds_the_only_pixel_that_matters(classes):
    """A linear classifier that reads one pixel for each class."""
    images, places = jnp.ones((2, 8, 8, 1)), [(2, 5), (6, 1)]
    kernel = np.zeros((64, 5), np.float32)
    for (row, column), label in zip(places, classes, strict=True):
        kernel[8 * row + column, label] = 8
    variables = {"params": {"head": {"kernel": jnp.asarray(kernel), "bias": jnp.zeros(5)}}}
    model = models.create("linear", num_classes=5)
    found = occlusion.rise(model, variables, images, classes, masks=2000, cells=8)
    for saliency_map, place in zip(found, places, strict=True):
        assert np.unravel_index(saliency_map.argmax(), (8, 8)) == place


@pytest.mark.parametrize("name", saliency.METHODS)
def test_maps_have_the_size_of_the_image(name, vit, classes):
    options = dict(rise=dict(masks=8, cells=2), smoothgrad=dict(samples=2))
    options["integrated_gradients"] = dict(steps=2)
    found = saliency.METHODS[name](*vit, classes, **options.get(name, {}))
    assert found.shape == (2, 16, 24)
    assert np.isfinite(found).all()
    assert found.std() > 0
