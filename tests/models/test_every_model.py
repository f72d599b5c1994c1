"""Tests of every architecture: one training step, input sizes, dtypes, features."""

from collections import OrderedDict

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict
from quick import quick_jit
from slow import slow_except
from small_models import SMALL, Small

from cv_jax import models

BATCH = 4
# Models from image to logits; the files of other models test their inputs and outputs.
CLASSIFIERS = [
    key
    for key, small in SMALL.items()
    if small.inputs is None and "num_classes" in models.fields(small.name)
]
RNGS = {name: jax.random.key(i) for i, name in enumerate(("params", "dropout", "mask"))}

pytestmark = pytest.mark.filterwarnings("error")


def inputs_of(small: Small):
    if small.inputs is not None:
        return small.inputs(BATCH)
    return (jax.random.normal(jax.random.key(1), (BATCH, *small.image)),)


def trace(small: Small, *, train=False, **fields):
    """Return (model, shapes of its output, shapes of its variables) without computation."""
    model = models.create(small.name, **{**small.fields, **fields})
    inputs = jax.eval_shape(lambda: inputs_of(small))
    run = lambda *x: model.init_with_output(RNGS, *x, train=train)  # noqa: E731
    return model, *jax.eval_shape(run, *inputs)


def some_weights(shapes):
    """Return random parameters without zeros, which would stop gradients."""
    rng = np.random.default_rng(0)
    weights = {}
    for path, leaf in flatten_dict(shapes).items():
        noise = rng.standard_normal(leaf.shape).astype(np.float32)
        if leaf.ndim > 1:
            weights[path] = noise / np.sqrt(np.prod(leaf.shape[:-1]))
        else:
            weights[path] = 0.1 * noise + (path[-1] == "scale")
    return unflatten_dict(weights)


@pytest.fixture(params=CLASSIFIERS)
def classifier(request) -> Small:
    return SMALL[request.param]


def test_every_module_has_a_small_net():
    covered = {models.MODELS[small.name].module for small in SMALL.values()}
    assert {entry.module for entry in models.MODELS.values()} == covered


# One network of each architecture.
QUICK = (
    *("linear", "mlp", "lenet5", "alexnet", "vgg11_bn", "resnet8_cifar", "resnet50_preact"),
    *("transformer", "vit", "mae", "swin", "airbench94"),
)


@pytest.mark.parametrize("key", slow_except(SMALL, *QUICK))
def test_one_training_step(key):
    """Every parameter except `unreached` has a finite gradient other than zero, a short step lowers
    the loss, and running statistics change."""
    small = SMALL[key]
    model, _, shapes = trace(small)
    params = some_weights(shapes["params"])
    inputs = inputs_of(small)

    @quick_jit
    def state():
        return {k: v for k, v in model.init(RNGS, *inputs).items() if k != "params"}

    def step(params, state):
        def loss(params):
            variables = {"params": params, **state}
            output, new = model.apply(
                variables, *inputs, train=True, rngs=RNGS, mutable=list(state)
            )
            return small.loss(output, inputs), new

        (value, new), grads = jax.value_and_grad(loss, has_aux=True)(params)
        norm = jnp.sqrt(sum(jnp.vdot(g, g) for g in jax.tree.leaves(grads)))
        return value, grads, jax.tree.map(lambda p, g: p - 1e-2 * g / norm, params, grads), new

    step = quick_jit(step)
    state = state()
    before, grads, moved, new = step(params, state)
    after, *_ = step(moved, state)
    assert np.isfinite(before)
    assert after < before

    gradients = {"/".join(path): np.asarray(g) for path, g in flatten_dict(grads).items()}
    assert set(small.unreached) <= set(gradients)
    largest = max(np.abs(g).max() for g in gradients.values())
    for path, gradient in gradients.items():
        assert np.isfinite(gradient).all(), path
        size = np.abs(gradient).max() / largest
        assert (size < 1e-6) == (path in small.unreached), f"{path}: {size}"
    for old, now in zip(jax.tree.leaves(state), jax.tree.leaves(new), strict=True):
        assert np.isfinite(now).all()
        assert not np.array_equal(old, now)


def test_logits_and_features(classifier):
    model, (logits, features), _ = trace(classifier)
    assert logits.shape == (BATCH, model.num_classes)
    assert logits.dtype == jnp.float32
    assert isinstance(features, OrderedDict)
    assert list(features)[-1] == "pre_logits"


def test_features_instead_of_classes(classifier):
    _, (logits, features), variables = trace(classifier, num_classes=0)
    assert logits.shape == features["pre_logits"].shape
    assert "head" not in variables.get("params", {})


def test_one_channel(classifier):
    model, (logits, _), _ = trace(classifier._replace(image=(*classifier.image[:2], 1)))
    assert logits.shape == (BATCH, model.num_classes)


@pytest.mark.parametrize("train", [False, True])
def test_bfloat16_computes_in_bfloat16(classifier, train):
    """Parameters, running statistics and logits are float32, all features are bfloat16."""
    _, (logits, features), variables = trace(classifier, train=train, dtype="bfloat16")
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    assert {leaf.dtype for leaf in jax.tree.leaves(features)} == {jnp.dtype("bfloat16")}
    assert {leaf.dtype for leaf in jax.tree.leaves(logits)} == {jnp.dtype("float32")}


def test_bfloat16_parameters(classifier):
    _, (logits, _), variables = trace(classifier, param_dtype="bfloat16")
    params = variables.pop("params")
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("bfloat16")}
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} <= {jnp.dtype("float32")}
    assert logits.dtype == jnp.float32


@pytest.mark.parametrize("key", [key for key in CLASSIFIERS if SMALL[key].smallest])
def test_smallest_image(key):
    """The minimum works; one pixel less gives an error of one line with the minimum."""
    side = SMALL[key].smallest
    trace(SMALL[key]._replace(image=(side, side + 5, 3)))
    with pytest.raises(ValueError, match=f"at least {side}x{side}, got {side + 2}x{side - 1}\n"):
        trace(SMALL[key]._replace(image=(side + 2, side - 1, 3)))


@pytest.mark.slow
@pytest.mark.parametrize("name", models.list_models())
def test_full_size(name):
    """Every model can be traced with its published input."""
    model = models.create(name)
    inputs = jax.eval_shape(lambda: models.dummy_inputs(name))
    (output, features), _ = jax.eval_shape(lambda *x: model.init_with_output(RNGS, *x), *inputs)
    assert list(features)[-1] == "pre_logits"
    if "num_classes" in models.fields(name):
        assert output.shape == (1, model.num_classes)
