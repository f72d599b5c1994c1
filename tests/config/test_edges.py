"""Every config field with values at the edge: a right meaning, or one line before any work.

The values are tried in a config of a model that has the field. What is accepted is in range, and
comes back from its text. `test_a_sample_of_edges_is_refused_when_the_run_is_built` goes one step
further, because some limits depend on the data or on other fields.
"""

import math

import pytest

from cv_jax import config as configs
from cv_jax import models
from cv_jax.config.fields import FIELDS
from cv_jax.errors import InputError
from cv_jax.sweep.points import text_of
from cv_jax.training import experiment

VALUES = (
    *("0", "-1", "-0.0", "1e-400", "1e30", str(10**30), str(2**31), str(2**63), "-inf", "inf"),
    *("nan", "", " ", "\t", ",", "1,", ",1", "1,,2", "1,2", "a,b", "()", "(1,2", "{}", "none"),
    *("٣", "１", "1 2", "0x10", "16x16", "true", "'x'", "\\", "9" * 5000),
)
# Model field → a model that has it.
OF_MODELS = {
    f"model.{field}": name
    for name in models.list_models()
    for field in models.fields(name)
    if field not in ("num_classes", "image_size")
}


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    """`load("vit_b16", {name: text})` loads a config file of this model."""
    file = tmp_path_factory.mktemp("configs") / "file.py"
    file.write_text(
        "from cv_jax import config\n\ndef get_config(arg):\n    return config.default(model=arg)\n"
    )
    return lambda model, overrides: configs.load(f"{file}:{model}", overrides)


def check_value(value):
    """Assert that a value can be computed with."""
    for item in value if isinstance(value, tuple) else (value,):
        if isinstance(item, (int, float)):
            assert math.isfinite(item)
            assert str(item) != "-0.0"


@pytest.mark.parametrize("name", [*FIELDS, *OF_MODELS])
def test_a_value_is_accepted_with_a_meaning_or_refused_with_one_line(name, load):
    model = OF_MODELS.get(name, "mlp")
    for text in VALUES:
        try:
            config = load(model, {name: text})
        except InputError as error:
            message = str(error)
            assert f"config.{name}" in message or "config.total_" in message, (text, message)
            assert len(message) < 11_000
            continue
        value = configs.flatten(config)[name]
        check_value(value)
        again = configs.flatten(load(model, {name: text_of(value)}))[name]
        assert again == value, text


NUMBERS = [f for f in FIELDS.values() if any(word in str(f.type) for word in ("int", "float"))]


@pytest.mark.parametrize("field", NUMBERS, ids=lambda field: field.name)
def test_every_number_has_a_smallest_and_every_integer_a_largest_value(field, load):
    assert field.minimum is not None or field.above is not None
    if "int" in str(field.type) and not configs.other_units(field.name):
        assert field.maximum is not None
        with pytest.raises(InputError, match=f"config.{field.name}.* at most {field.maximum}"):
            load("mlp", {field.name: str(field.maximum + 1)})


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("init_from", "", "config.init_from='' is empty; use none for no value"),
        ("data.dir", " ", "config.data.dir=' ' is empty; use none for no value"),
        ("compile_cache", "", "config.compile_cache='' is empty"),
        ("data.train_split", "", "config.data.train_split='' is empty"),
        ("data.mean", "inf", "config.data.mean=(inf,) must be finite, at least 0 and at most 1"),
        ("data.mean", "123.7", "config.data.mean=(123.7,) must be at least 0 and at most 1"),
        ("optim.rules", "a: lr=1,,b: lr=2", "'a: lr=1,,b: lr=2' has an empty item"),
        ("total_steps", "-1", "config.total_steps=-1 must be at least 0"),
        ("eval.every_percent", "-0.5", "config.eval.every_percent=-0.5 must be at least 0"),
        ("schedule.warmup_epochs", "inf", "config.schedule.warmup_epochs=inf must be finite"),
        ("image_size", "0x10", "config.image_size=(0, 10) must be at least 1"),
        ("image_size", "1,2,3", "config.image_size=1,2,3: '1,2,3' is not an integer"),
        ("mesh.heartbeat_seconds", str(2**40), "must be at least 1 and at most 2147483647"),
        ("model.widths", "8,-1", "config.model.widths=(8, -1) must be at least 0"),
    ],
)
def test_a_message_names_field_value_and_what_is_allowed(load, name, text, message):
    with pytest.raises(InputError) as caught:
        load("mlp", {name: text})
    assert message in str(caught.value)


def test_the_axis_of_batch_normalisation_needs_the_per_device_view(load):
    axis = {"model.axis_name": "data"}
    assert load("resnet18", {**axis, "mesh.step": "pmap"}).model.axis_name == "data"
    for wrong in (axis, {"model.axis_name": "rows", "mesh.step": "pmap"}):
        with pytest.raises(InputError, match="is not none, or data with config.mesh.step=pmap"):
            load("resnet18", wrong)


# Small networks, and the values whose limits depend on the data or on other fields.
SMALL = {
    "mlp": {"model.widths": "8"},
    "vit_ti16": {"model.width": 8, "model.depth": 1, "model.num_heads": 2, "model.patch_size": 4},
    "resnet18": {"model.stage_sizes": "1,1", "model.widths": "4,8", "model.stem_width": 4},
}
FEW = {"batch_size": 8, "total_steps": 2, "mesh.devices": 1, "data.train_split": "train[:40]"}
BUILT = [
    ("mlp", "total_steps", "0", "config.total_steps=0 gives 0 updates; allowed are 1 to"),
    ("mlp", "total_epochs", "1e30", "config.total_epochs=1e+30 gives more than 2147483647 updates"),
    ("mlp", "schedule.warmup_percent", "1e30", "the whole training only 2"),
    ("mlp", "data.per_class", "1000000", "config.data.per_class=1000000"),
    ("mlp", "optim.accumulate_steps", "1000000", "config.optim.accumulate_steps=1000000"),
    ("mlp", "mesh.devices", "1000000", "config.mesh.devices=1000000"),
    ("mlp", "data.mean", "", "has 0 values; images have 1 channels"),
    ("mlp", "optim.rules", "", None),
    ("mlp", "optim.rules", "fc[1,2]{1,2}/.*: lr=2", None),
    ("mlp", "model.widths", "", None),
    ("mlp", "image_size", "16x32", None),
    ("mlp", "eval.every_percent", "1e30", None),
    ("vit_ti16", "model.depth", "0", "depth"),
    ("vit_ti16", "model.patch_size", "0", "patch_size"),
    ("vit_ti16", "model.mlp_ratio", "1e30", "GiB"),
    ("vit_ti16", "model.pool", "", "unknown pool ''"),
    ("resnet18", "model.stem_width", "0", "stem_width"),
    ("resnet18", "model.stage_sizes", "", "stage_sizes"),
]


@pytest.mark.parametrize(("model", "name", "text", "message"), BUILT)
def test_a_sample_of_edges_is_refused_when_the_run_is_built(
    load, data_dir, model, name, text, message
):
    few = {key: str(value) for key, value in {**FEW, **SMALL[model]}.items()}
    config = load(model, {**few, "data.dir": str(data_dir), name: text})
    if message is None:
        experiment.build(config)
        return
    with pytest.raises(InputError) as caught:
        experiment.build(config)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
