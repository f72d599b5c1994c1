"""The ranges of fields: each bound is tried on both sides, and each list of names is complete."""

import math

import pytest

from cv_jax import config
from cv_jax.config.fields import FIELDS
from cv_jax.errors import InputError
from cv_jax.optim.optimisers import OPTIMISERS
from cv_jax.optim.schedules import SCHEDULES
from cv_jax.run.writers import WRITERS
from cv_jax.tasks.losses import LOSSES

BOUNDED = [field for field in FIELDS.values() if field.range and field.allowed is None]


def refused(name, value):
    """The message of a config with this value."""
    c = config.default()
    config.set_value(c, name, value)
    with pytest.raises(InputError) as caught:
        config.check_values(c)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def accepted(name, value):
    c = config.default()
    config.set_value(c, name, value)
    config.check_values(c)


@pytest.mark.parametrize("field", BOUNDED, ids=lambda field: field.name)
def test_each_bound_separates_allowed_from_refused(field):
    def of_type(number):
        return (number,) if isinstance(field.default, tuple) else number

    step = 1 if "int" in str(field.type) else 1e-6
    for bound, inside in ((field.minimum, step), (field.maximum, -step)):
        if bound is not None:
            accepted(field.name, of_type(bound))
            assert f"config.{field.name}=" in refused(field.name, of_type(bound - inside))
    for bound, inside in ((field.above, step), (field.below, -step)):
        if bound is not None:
            accepted(field.name, of_type(bound + inside))
            assert field.range in refused(field.name, of_type(bound))
    if "float" in str(field.type):
        assert "finite" in refused(field.name, of_type(math.inf))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("optim.learning_rate", -1.0, "config.optim.learning_rate=-1.0 must be at least 0"),
        ("optim.b2", 1.0, "config.optim.b2=1.0 must be at least 0 and less than 1"),
        ("optim.clip_norm", 0.0, "config.optim.clip_norm=0.0 must be more than 0"),
        (
            "optim.layer_decay",
            1.5,
            "config.optim.layer_decay=1.5 must be more than 0 and at most 1",
        ),
        ("schedule.milestones", (50.0, 175.0), "(50.0, 175.0) must be at least 0 and at most 100"),
        ("loss.label_smoothing", 1.5, "must be at least 0 and less than 1"),
        ("distill.temperature", 0.0, "config.distill.temperature=0.0 must be more than 0"),
        ("mesh.heartbeat_seconds", 0, "config.mesh.heartbeat_seconds=0 must be at least 1"),
        ("data.std", (0.5, 0.0), "config.data.std=(0.5, 0.0) must be more than 0"),
        ("image_size", (32, 0), "config.image_size=(32, 0) must be at least 1 and at most 32767"),
        ("optim.name", "adamv", "config.optim.name: 'adamv' is not one of sgd, adam, adamw"),
        ("optim.moment_dtype", "float16", "'float16' is not one of float32, bfloat16"),
        ("model.dtype", "float16", "is not one of float32, bfloat16; gradients underflow in"),
        ("model.param_dtype", "float16", "is not one of float32, bfloat16; gradients underflow in"),
        ("schedule.name", "cosin", "did you mean cosine?"),
        ("distill.kind", "sotf", "'sotf' is not one of soft, hard; did you mean soft?"),
        ("mesh.params", "fspd", "did you mean fsdp?"),
        ("log.writers", ("wandb", "tensorbord"), "'tensorbord' is not one of tensorboard, wandb"),
    ],
)
def test_the_message_names_field_value_and_range(name, value, message):
    assert message in refused(name, value)


@pytest.mark.parametrize(
    ("name", "implemented"),
    [
        ("optim.name", OPTIMISERS),
        ("schedule.name", SCHEDULES),
        ("loss.name", LOSSES),
        ("log.writers", WRITERS),
    ],
)
def test_allowed_names_are_those_that_are_implemented(name, implemented):
    assert sorted(FIELDS[name].allowed) == sorted(implemented)


def test_defaults_are_in_range():
    config.check_values(config.default())


def test_a_file_and_an_override_are_checked_when_the_config_is_loaded(tmp_path):
    file = tmp_path / "file.py"
    file.write_text(
        "from cv_jax import config\ndef get_config(arg):\n    return config.default()\n"
    )
    with pytest.raises(InputError, match="config.seed=-1 must be at least 0"):
        config.load(str(file), {"seed": "-1"})
