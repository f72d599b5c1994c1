"""Loading and exporting on a small ResNet: strictness, classes, channels, dtypes."""

import logging

import jax
import ml_dtypes
import numpy as np
import pytest

from cv_jax import interop, models
from cv_jax.errors import InputError
from cv_jax.interop import weights
from cv_jax.interop.tables import fill_in

SMALL = dict(stage_sizes=(1, 1), widths=(4, 8), stem_width=4)


@pytest.fixture(scope="module")
def variables():
    """A ResNet of two basic blocks, three channels and 5 classes; every array is random."""
    model = models.create("resnet18", num_classes=5, **SMALL)
    shapes = jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, 32, 32, 3), np.float32))
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: rng.uniform(0.5, 1.5, x.shape).astype(np.float32), shapes)


@pytest.fixture
def state_dict(variables):
    return interop.export("resnet18", "torchvision", variables, **SMALL)


def load(state_dict, **options):
    notes = []
    variables = interop.load(
        "resnet18", "torchvision", state_dict, report=notes.append, **SMALL, **options
    )
    return variables, notes


def test_exported_weights_load_to_the_same_bits(variables, state_dict):
    loaded, notes = load(state_dict)
    assert not notes
    assert jax.tree.all(jax.tree.map(np.array_equal, loaded, variables))
    assert {x.shape for k, x in state_dict.items() if k.endswith("tracked")} == {()}
    assert {x.dtype.name for k, x in state_dict.items() if k.endswith("tracked")} == {"int64"}


def test_counters_may_be_absent(state_dict):
    kept = {key: x for key, x in state_dict.items() if not key.endswith("num_batches_tracked")}
    assert len(kept) < len(state_dict)
    (without, _), (with_them, _) = load(kept), load(state_dict)
    assert jax.tree.all(jax.tree.map(np.array_equal, without, with_them))


def test_one_error_lists_every_difference(state_dict):
    del state_dict["layer1.0.conv2.weight"], state_dict["bn1.running_mean"]
    state_dict["layer2.0.bn1.bias"] = np.zeros(9, np.float32)
    state_dict["layer9.0.conv1.weight"] = np.zeros((2, 2), np.float32)
    with pytest.raises(InputError) as error:
        load(state_dict)
    lines = str(error.value).splitlines()
    assert lines[0] == (
        "the weights do not fit resnet18 in the layout of torchvision: 2 missing, "
        "1 misshapen, 1 unexpected"
    )
    assert lines[1:] == [
        "  missing bn1.running_mean (4,)",
        "  missing layer1.0.conv2.weight (4, 4, 3, 3)",
        "  misshapen layer2.0.bn1.bias: expected (8,), got (9,)",
        "  unexpected layer9.0.conv1.weight (2, 2)",
    ]


@pytest.mark.parametrize("shape", [(), (4,), (4, 3, 7)])
def test_a_first_filter_of_other_rank_is_misshapen(state_dict, shape):
    state_dict["conv1.weight"] = np.zeros(shape, np.float32)
    with pytest.raises(InputError, match="misshapen conv1.weight"):
        load(state_dict)


def test_another_number_of_classes_drops_the_head(variables, state_dict):
    loaded, notes = load(state_dict, num_classes=3, seed=1)
    assert loaded["params"]["head"]["kernel"].shape == (8, 3)
    assert loaded["params"]["head"]["kernel"].std() > 0
    assert "classifier of 5 classes dropped" in notes[0]
    assert "params/head/kernel" in notes[1]
    again, _ = load(state_dict, num_classes=3, seed=1)
    other, _ = load(state_dict, num_classes=3, seed=2)
    kernels = [x["params"]["head"]["kernel"] for x in (loaded, again, other)]
    assert np.array_equal(kernels[0], kernels[1])
    assert not np.array_equal(kernels[0], kernels[2])
    del loaded["params"]["head"]
    kept = {**variables, "params": {k: x for k, x in variables["params"].items() if k != "head"}}
    assert jax.tree.all(jax.tree.map(np.array_equal, loaded, kept))


def state_conv(state_dict):
    return state_dict["conv1.weight"].transpose(2, 3, 1, 0)


def test_the_fresh_head_is_the_models_own_initialisation(state_dict):
    loaded, _ = load(state_dict, num_classes=3, seed=1)
    model = models.create("resnet18", num_classes=3, **SMALL)
    initial = jax.jit(model.init)(jax.random.key(1), np.zeros((1, 32, 32, 3), np.float32))
    expected = initial["params"]["head"]["kernel"]
    np.testing.assert_allclose(loaded["params"]["head"]["kernel"], expected, rtol=1e-5)


def test_no_head_at_all(state_dict):
    loaded, notes = load(state_dict, num_classes=0)
    assert "head" not in loaded["params"]
    assert notes == ["classifier of 5 classes dropped"]
    exported = interop.export("resnet18", "torchvision", loaded, **SMALL)
    assert state_dict.keys() - exported.keys() == {"fc.weight", "fc.bias"}


def test_weights_without_a_head(state_dict):
    del state_dict["fc.weight"]
    with pytest.raises(InputError, match=r"missing fc\.weight"):  # half a classifier is a mistake
        load(state_dict)
    del state_dict["fc.bias"]
    backbone, notes = load(state_dict)
    assert "head" not in backbone["params"]
    assert notes == ["the weights have no classifier"]
    loaded, notes = load(state_dict, num_classes=3)
    assert loaded["params"]["head"]["bias"].shape == (3,)
    assert notes == ["params/head/bias and params/head/kernel newly initialised"]
    assert not load(state_dict, num_classes=0)[1]


def test_changes_are_logged(state_dict, caplog):
    with caplog.at_level(logging.WARNING):
        interop.load("resnet18", "torchvision", state_dict, num_classes=3, **SMALL)
    assert "classifier of 5 classes dropped" in caplog.text


@pytest.mark.parametrize("channels", [1, 2, 4, 7])
def test_input_channels(state_dict, channels):
    """Equal channels give the output of three equal channels; kernels repeat, scaled."""
    loaded, notes = load(state_dict, in_channels=channels)
    kernel, old = loaded["params"]["conv1"]["kernel"], state_conv(state_dict)
    assert kernel.shape == (7, 7, channels, 4)
    assert kernel.dtype == np.float32
    assert f"adapted from 3 to {channels} input channels" in notes[0]
    if channels == 1:
        expected = old[:, :, 0] + old[:, :, 1] + old[:, :, 2]
        np.testing.assert_allclose(kernel[:, :, 0], expected, rtol=1e-6)
    else:
        for i in range(channels):
            np.testing.assert_allclose(kernel[:, :, i], old[:, :, i % 3] * 3 / channels, rtol=1e-6)
    exported = interop.export("resnet18", "timm", loaded, **SMALL)
    assert exported["conv1.weight"].shape == (4, channels, 7, 7)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_other_dtypes_become_the_dtypes_of_the_model(state_dict, dtype):
    stored = {key: x.astype(dtype) for key, x in state_dict.items()}
    loaded, _ = load(stored)
    assert {x.dtype for x in jax.tree.leaves(loaded)} == {np.dtype(np.float32)}
    assert np.array_equal(loaded["params"]["bn1"]["scale"], stored["bn1.weight"].astype(np.float32))
    half, _ = load(state_dict, param_dtype="bfloat16")
    assert half["params"]["bn1"]["scale"].dtype == ml_dtypes.bfloat16
    assert half["batch_stats"]["bn1"]["var"].dtype == np.float32


def test_export_is_strict(variables):
    with pytest.raises(InputError, match="missing batch_stats/bn1/mean"):
        interop.export("resnet18", "torchvision", {"params": variables["params"]}, **SMALL)
    with pytest.raises(InputError, match="the variables do not fit resnet18"):
        interop.export("resnet18", "torchvision", variables)


@pytest.mark.parametrize(
    ("model", "source", "message"),
    [
        ("resnet18", "keras", "unknown source 'keras'; allowed: torchvision, timm"),
        ("lenet5", "timm", "timm has no counterpart of model 'lenet5'; it has vgg11"),
        ("resnet50_v1", "torchvision", "no counterpart of model 'resnet50_v1'"),
        ("resnet81", "timm", "no counterpart of model 'resnet81'"),
    ],
)
def test_unknown_pairs(model, source, message):
    with pytest.raises(InputError, match=message):
        interop.load(model, source, {})


def test_fields_without_a_reference(variables):
    with pytest.raises(InputError, match="no field 'depth'"):
        interop.load("resnet18", "timm", {}, depth=3)
    with pytest.raises(InputError, match=r"classifier_0/kernel \(8, 6\) cannot be written as"):
        interop.load("vgg11", "timm", {}, depths=(1,), widths=(8,), fc_width=6, pool_size=1)


@pytest.mark.slow
@pytest.mark.parametrize(
    "family", interop.FAMILIES, ids=lambda f: f"{f.source}-{[*f.references][0]}"
)
def test_tables_cover_every_reference(family):
    """Every array of every model has a unique name in the source."""
    assert all(interop.reference(family.source, n) == x for n, x in family.references.items())
    different = {repr(entry): (name, *entry) for name, entry in family.references.items()}
    shallow = {"depth": 2, "depths": (2, 2, 2, 2), "decoder_depth": 2}
    for name, model, fields in different.values():
        known = models.fields(model)
        fewer = {k: x for k, x in shallow.items() if k in known and "num_heads" in known}
        paths = interop.Target(model, **{**fields, **fewer}).shapes
        rules, unmatched = fill_in(family.rules, paths)
        keys = [key for rule in rules for key in rule.theirs]
        assert not unmatched, name
        assert len(set(keys)) == len(keys), name
        assert sorted(path for rule in rules for path in rule.ours) == sorted(paths), name


def test_names_of_the_first_and_last_layer():
    for model, first, last in (
        ("vgg11", "features.0", "head.fc"),
        ("resnet50_preact", "stem.conv", "head.fc"),
        ("deit_ti16_distilled", "patch_embed.proj", ["head", "head_dist"]),
    ):
        names = weights.layer_names(model, "timm", interop.Target(model).shapes)
        assert names == {"first_conv": first, "classifier": last}
    paths = interop.Target("resnet18", num_classes=0).shapes
    assert weights.layer_names("resnet18", "timm", paths) == {"first_conv": "conv1"}
