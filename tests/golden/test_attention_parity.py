"""Golden files of torch.nn.Transformer, transformers' MAE, and timm's weight loaders."""

import json
import pathlib
import re

import jax
import numpy as np
import official_mae
import pytest
import recipe
from attention_cases import (
    ADAPTED,
    MAE,
    SOURCE,
    TARGET,
    TARGET_MASK,
    TRANSFORMER,
    VOCAB,
    mae_noise,
    npz_weights,
)
from slow import slow_except

from cv_jax import interop, models
from cv_jax.models import mae

FOLDER = pathlib.Path(__file__).parent


def read(folder: str, name: str):
    return json.loads((FOLDER / folder / f"{name}.json").read_text())


def nested(flat: dict[str, np.ndarray]) -> dict:
    tree = {}
    for path, leaf in flat.items():
        *parents, last = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = leaf
    return tree


def path_of(key: str) -> str:
    """Return the path here of a parameter of torch.nn.Transformer."""
    key = re.sub(r"^encoder\.layers\.", "encoder_layers_", key)
    key = re.sub(r"^decoder\.layers\.", "decoder/layers_", key)
    key = key.replace("encoder.norm", "encoder_norm").replace(".", "/")
    weight = "scale" if "norm" in key else "kernel"
    return re.sub("weight$", weight, key)


def transformer_params(weights: dict[str, np.ndarray]) -> dict:
    flat = {}
    for key, x in weights.items():
        if "in_proj" in key:
            for letter, part in zip("qkv", np.split(x, 3), strict=True):
                separate = key.replace("in_proj_", f"{letter}_proj.")
                flat[path_of(separate)] = part.T
        else:
            flat[path_of(key)] = x.T
    return nested(flat)


def torch_gradients(grads: dict, keys) -> dict[str, np.ndarray]:
    """Return gradients under torch's names, queries, keys and values fused."""

    def at(key):
        node = grads
        for name in path_of(key).split("/"):
            node = node[name]
        return np.asarray(node).T

    result = {}
    for key in keys:
        parts = [key.replace("in_proj_", f"{letter}_proj.") for letter in "qkv"]
        result[key] = np.concatenate([at(p) for p in parts]) if "in_proj" in key else at(key)
    return result


def assert_summaries(gradients: dict[str, np.ndarray], summaries: dict):
    """Compare to 1e-6, as `test_gradients` in test_parity."""
    rounding = 1e-12 * max(norm for norm, *_ in summaries.values())
    for key, expected in summaries.items():
        norm, scale = expected[0], expected[0] / np.sqrt(gradients[key].size)
        allowed = 1e-6 * np.array([norm, scale, scale, scale]) + rounding
        error = np.abs(recipe.summary(key, gradients[key]) - expected)
        assert (error <= allowed).all(), (key, error, allowed)


@pytest.mark.parametrize("variant", slow_except(["paper", "final_norm"], "paper"))
def test_transformer(variant):
    """Logits to 1e-5 in float32, gradients to 1e-6 in float64, with masks."""
    weights = recipe.state_dict(read("shapes", f"transformer-{variant}"))
    params = transformer_params(weights)
    matrix = recipe.draw("embedding", (VOCAB, TRANSFORMER["d_model"])).astype(np.float64) * 0.3
    params["decoder"]["embedding"] = {"embedding": matrix.astype(np.float32)}
    golden = np.load(FOLDER / "logits" / f"transformer-{variant}.npz")["logits"]
    summaries = read("gradients", f"transformer-{variant}")

    def build(dtype):
        return models.create(
            "transformer_base",
            vocab_size=VOCAB,
            width=TRANSFORMER["d_model"],
            depth=TRANSFORMER["num_encoder_layers"],
            num_heads=TRANSFORMER["nhead"],
            hidden_dim=TRANSFORMER["dim_feedforward"],
            dropout_rate=0.0,
            final_norm=variant == "final_norm",
            dtype=dtype,
            param_dtype=dtype,
        )

    def logits(params, dtype):
        return build(dtype).apply({"params": params}, SOURCE, TARGET, None, TARGET_MASK)[0]

    shapes = jax.eval_shape(build("float32").init, jax.random.key(0), SOURCE, TARGET)["params"]
    assert jax.tree.map(np.shape, params) == jax.tree.map(np.shape, shapes)
    result = jax.jit(lambda p: logits(p, "float32"))(params)
    np.testing.assert_allclose(result, golden, rtol=0, atol=1e-5 * np.abs(golden).max())

    with jax.enable_x64(True):
        params = jax.tree.map(lambda x: x.astype(np.float64), params)
        cotangent = recipe.draw("cotangent", golden.shape)
        grads = jax.jit(jax.grad(lambda p: (logits(p, "float64") * cotangent).sum()))(params)
        result = torch_gradients(grads, weights)
        result["embedding"] = np.asarray(grads["decoder"]["embedding"]["embedding"])
    assert result.keys() == summaries.keys()
    assert_summaries(result, summaries)


def assert_official(image, golden, size, normalize):
    """Compare target, loss and reconstruction of the golden prediction with the official code."""
    images = np.moveaxis(image, -1, 1).astype(np.float64)
    prediction, mask = golden["prediction"], golden["mask"]
    expected = official_mae.loss(images, prediction, mask, size, normalize)
    np.testing.assert_allclose(
        golden["loss_normalized" if normalize else "loss"], expected, rtol=1e-6
    )
    expected = official_mae.target(images, size, normalize)
    np.testing.assert_allclose(mae.target(image, size, normalize), expected, rtol=0, atol=2e-5)
    expected = official_mae.reconstruction(images, prediction, size, normalize)
    found = np.moveaxis(mae.reconstruction(image, prediction, size, normalize), -1, 1)
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("name", slow_except(MAE, "mae"))
def test_mae(name):
    """Mask, prediction, both losses and gradients for given noise; weights in both directions."""
    sizes, noise = MAE[name], mae_noise(name)
    fields = dict(
        image_size=sizes["image_size"],
        patch_size=sizes["patch_size"],
        width=sizes["hidden_size"],
        depth=sizes["num_hidden_layers"],
        num_heads=sizes["num_attention_heads"],
        decoder_width=sizes["decoder_hidden_size"],
        decoder_depth=sizes["decoder_num_hidden_layers"],
        decoder_num_heads=sizes["decoder_num_attention_heads"],
        mask_ratio=sizes["mask_ratio"],
    )
    weights = recipe.state_dict(read("shapes", name))
    variables = interop.load("mae_vit_b16", "mae", weights, **fields)
    image = recipe.images(len(noise), (sizes["image_size"],) * 2)
    model = models.create("mae_vit_b16", **fields)
    prediction, features = jax.jit(model.apply)(variables, image, noise)
    golden = np.load(FOLDER / "logits" / f"{name}.npz")
    np.testing.assert_array_equal(features["mask"], golden["mask"])
    expected = golden["prediction"]
    np.testing.assert_allclose(prediction, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    for key, normalize in (("loss", False), ("loss_normalized", True)):
        rest = sizes["patch_size"], normalize
        loss = mae.reconstruction_loss(image, prediction, features["mask"], *rest).mean()
        np.testing.assert_allclose(loss, golden[key], rtol=1e-5)
        assert_official(image, golden, *rest)

    with jax.enable_x64(True):
        double = dict(fields, dtype="float64", param_dtype="float64")
        params = interop.load("mae_vit_b16", "mae", weights, **double)["params"]
        model = models.create("mae_vit_b16", **double)

        @jax.jit
        @jax.grad
        def gradient(params):
            x = image.astype(np.float64)
            prediction, features = model.apply({"params": params}, x, noise)
            mask = features["mask"]
            return mae.reconstruction_loss(x, prediction, mask, sizes["patch_size"]).mean()

        gradients = {"params": gradient(params)}
        gradients = interop.export("mae_vit_b16", "mae", gradients, **double)
    assert_summaries(gradients, read("gradients", name))

    exported = interop.export("mae_vit_b16", "mae", variables, **fields)
    assert exported.keys() - weights.keys() == {"pos_embed", "decoder_pos_embed"}
    for key, weight in weights.items():
        np.testing.assert_array_equal(exported[key], weight)
    again = interop.load("mae_vit_b16", "mae", exported, **fields)
    assert jax.tree.all(jax.tree.map(np.array_equal, again, variables))


QUICK = ("adapted-big_vision-class", "adapted-swin-windows", "big_vision-vit", "official-mae_b")


@pytest.mark.parametrize("name", slow_except(ADAPTED, *QUICK, long=True))
def test_adapted(name):
    """Names, positions, windows and patches convert as in timm's own loaders."""
    case = ADAPTED[name]
    if case.source == "big_vision":
        weights = npz_weights(**case.trained)
    else:
        weights = recipe.state_dict(read("shapes", name))
    notes = []
    variables = interop.load(
        case.model,
        case.source,
        weights,
        image_size=case.image_size,
        report=notes.append,
        **case.fields,
    )
    assert bool(notes) == name.startswith("adapted")
    sizes = {"image_size": case.image_size} if "image_size" in models.fields(case.model) else {}
    model = models.create(case.model, **sizes, **case.fields)
    apply = jax.jit(lambda variables, image: model.apply(variables, image)[0])
    logits = apply(variables, recipe.images(2, case.image_size))
    golden = np.load(FOLDER / "logits" / f"{name}.npz")["logits"]
    np.testing.assert_allclose(logits, golden, rtol=0, atol=1e-5 * np.abs(golden).max())
    if not notes:
        exported = interop.export(
            case.model, case.source, variables, image_size=case.image_size, **case.fields
        )
        weights = interop.family(case.model, case.source).renamed(weights)
        assert exported.keys() == weights.keys()
        for key, weight in weights.items():
            np.testing.assert_array_equal(exported[key], weight)
