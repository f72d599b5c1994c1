"""Models here against torchvision and timm, by golden files."""

import json
import pathlib

import cases
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import recipe
from quick import quick_jit
from slow import slow_except

from cv_jax import interop, models

FOLDER = pathlib.Path(__file__).parent


def state_dict(case: cases.Case) -> dict[str, np.ndarray]:
    """Return the reference's weights from the recipe."""
    return recipe.state_dict(json.loads((FOLDER / "shapes" / f"{case.name}.json").read_text()))


def fields_of(case: cases.Case) -> dict:
    """Return the fields that make the registry's model this reference, by the mapping table."""
    model, fields = interop.family(case.model, case.source).references[case.reference]
    assert model == case.model
    return {**fields, **case.fields}


def sized(case: cases.Case, fields: dict) -> dict:
    """Return fields and image size; shapes may depend on the size (Swin's smaller windows)."""
    return {"image_size": case.image_size, **fields}


def by_name(given: tuple[cases.Case, ...], *quick: str):
    chosen = slow_except(given, *quick, long=True)
    return pytest.mark.parametrize("case", chosen, ids=lambda case: case.name)


# One case of each family.
QUICK = (
    *("timm-vgg11_bn", "timm-deit_tiny_distilled_patch16_224", "timm-resnetv2_50"),
    *("torchvision-alexnet", "torchvision-resnet18", "torchvision-swin_v2_t"),
)


@by_name(cases.LOGITS, *QUICK)
def test_logits_and_round_trip(case):
    """Logits to 1e-5 of the largest; exported weights equal the loaded weights bit for bit."""
    weights, fields = state_dict(case), fields_of(case)
    variables = interop.load(case.model, case.source, weights, **sized(case, fields))
    model = models.create(case.model, **fields)
    apply = jax.jit(lambda variables, image: model.apply(variables, image, train=False)[0])
    logits = apply(variables, recipe.images(case.batch, case.image_size))
    golden = np.load(FOLDER / "logits" / f"{case.name}.npy")
    assert logits.dtype == jnp.float32
    np.testing.assert_allclose(logits, golden, rtol=0, atol=1e-5 * np.abs(golden).max())

    exported = interop.export(case.model, case.source, variables, **sized(case, fields))
    assert {key for key in exported if not recipe.CONSTANTS.fullmatch(key)} == weights.keys()
    for key, weight in weights.items():
        assert exported[key].dtype == weight.dtype, key
        assert exported[key].flags["C_CONTIGUOUS"], key
        assert np.array_equal(exported[key], weight), key
    again = interop.load(case.model, case.source, exported, **sized(case, fields))
    assert jax.tree.all(jax.tree.map(np.array_equal, again, variables))


def in_float64(case: cases.Case):
    """Return `(model, fields, variables)` in float64, without dropout."""
    fields = dict(fields_of(case), dtype="float64", param_dtype="float64")
    if "dropout_rate" in models.fields(case.model):
        fields["dropout_rate"] = 0.0
    variables = interop.load(case.model, case.source, state_dict(case), **sized(case, fields))
    return models.create(case.model, **fields), fields, variables


@by_name(cases.GRADIENTS, "torchvision-alexnet")
def test_gradients(case):
    """Norm and random projections of every parameter's gradient to 1e-6, float64 on both sides.

    A projection is compared with its typical size, norm/√size. A gradient that is zero up to
    rounding (a bias before batch normalisation) may differ by 1e-12 of the largest norm.
    """
    with jax.enable_x64(True):
        model, fields, variables = in_float64(case)
        image = recipe.images(case.batch, case.image_size).astype(np.float64)

        @quick_jit
        @jax.grad
        def gradient(params):
            (logits, _), _ = model.apply(
                {**variables, "params": params}, image, train=True, mutable=["batch_stats"]
            )
            return (logits * recipe.draw("cotangent", logits.shape)).sum()

        gradients = {**variables, "params": gradient(variables["params"])}
        exported = interop.export(case.model, case.source, gradients, **sized(case, fields))

    golden = json.loads((FOLDER / "gradients" / f"{case.name}.json").read_text())
    rounding = 1e-12 * max(norm for norm, *_ in golden.values())
    for key, expected in golden.items():
        norm, scale = expected[0], expected[0] / np.sqrt(exported[key].size)
        allowed = 1e-6 * np.array([norm, scale, scale, scale]) + rounding
        error = np.abs(recipe.summary(key, exported[key]) - expected)
        assert (error <= allowed).all(), (key, error, allowed)


@pytest.mark.slow
@by_name(cases.STATISTICS)
def test_running_statistics(case):
    """Running means and (unbiased) variances after three training steps, to 1e-6 of the largest.

    Both sides use float64: in float32, rounding in the steps appears in the fifth digit.
    """
    with jax.enable_x64(True):
        model, fields, variables = in_float64(case)
        labels = jnp.arange(case.batch)

        @jax.jit
        def step(variables, image):
            def loss(params):
                (logits, _), updated = model.apply(
                    {**variables, "params": params}, image, train=True, mutable=["batch_stats"]
                )
                losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
                return losses.mean(), updated

            def descend(parameter, gradient):
                return parameter - cases.LEARNING_RATE * gradient

            gradients, updated = jax.grad(loss, has_aux=True)(variables["params"])
            return {"params": jax.tree.map(descend, variables["params"], gradients), **updated}

        for i in range(cases.STEPS):
            image = recipe.images(case.batch, case.image_size, key=f"step {i}")
            variables = step(variables, image.astype(np.float64))
        exported = interop.export(case.model, case.source, variables, **sized(case, fields))

    golden = np.load(FOLDER / "statistics" / f"{case.name}.npz")
    statistics = {key for key in exported if key.endswith(("running_mean", "running_var"))}
    assert statistics == set(golden.files)
    for key in golden.files:
        error = np.abs(exported[key] - golden[key]).max() / np.abs(golden[key]).max()
        assert error <= 1e-6, (key, error)
